"""The check of a finished lake against its manifest: the shards, the index, then the totals.

In: a folder and its manifest. Out: the Problems and the number of records that were read.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.compute

from lake import InputError, pool, signals
from lake.inspection import verify_erased, verify_totals
from lake.inspection.verify_shard import Problems, Task, check
from lake.records import example, index, manifest

CHECKED = (
    "bytes and sha256 of shards, checksums and fields of records, labels, index, ids, patients, "
    "counts, rejects, TFDS files, that nothing is left of what was erased"
)
PIXELS = "images and masks decoded and compared with sizes, labels and run lengths"
QUICK = "not decoded (--quick)"


def verify(
    folder: Path,
    content: dict,
    decodes_pixels: bool = True,
    processes: int = 1,
    on_shard: Callable[[int, int], None] = lambda number, num_shards: None,
    key: bytes | None = None,
) -> tuple[Problems, int]:
    """Check all that can be checked; return the problems and the number of records.

    `content` is the manifest of the lake in `folder`. Shards are spread over the processes.
    `on_shard` is called with the number of shards that are checked, and of all, after each.
    `key`: of the hashes, for image ids that were erased.
    """
    problems = Problems()
    _check_shard_names(folder, content, problems)
    rows = _read_index(folder, content, problems)
    tasks = _tasks(folder, content, rows, decodes_pixels)
    num_shards = sum((folder / shard["name"]).is_file() for shard in content["shards"])
    num_records = 0
    with _parallel_map(min(processes, num_shards)) as run:
        for number, (shard_problems, shard_records) in enumerate(run(check, tasks), start=1):
            problems.update(shard_problems)
            num_records += shard_records
            on_shard(number, num_shards)
    if rows is not None:
        _check_places(rows, content, problems)
        _check_ids(rows, problems)
        verify_totals.check_counts(rows, content, problems)
    verify_totals.check_rejects(folder, content, problems)
    verify_totals.check_tfds(folder, content, problems)
    verify_erased.check(folder, content, rows, key, problems)
    return problems, num_records


@contextlib.contextmanager
def _parallel_map(processes: int) -> Iterator[Callable]:
    """Yield `map`, or its counterpart that spreads the calls over several processes."""
    if processes <= 1:
        yield map
        return
    with signals.raising(), pool.start(processes) as processes_at_work:
        yield processes_at_work.imap


def _check_shard_names(folder: Path, content: dict, problems: Problems) -> None:
    """Check that shards are named and numbered as TFDS expects, and that the folder has those of
    the manifest and no others."""
    shards = _shards_by_number(content)
    num_shards = manifest.num_shards(content)
    for (split, number), shard in shards.items():
        name = manifest.shard_name(content["dataset"], split, number, num_shards[split])
        if shard["name"] != name:
            problems.add("shard-names", f"the manifest has {shard['name']}, expected {name}")
    names = {shard["name"] for shard in content["shards"]}
    on_disk = {path.name for path in folder.glob("*.tfrecord-*")}
    for name in sorted(names - on_disk):
        problems.add("shard-missing", f"{name}: in the manifest, but not in {folder}")
    for name in sorted(on_disk - names):
        problems.add("shard-unlisted", f"{name}: in {folder}, but not in the manifest")


def _read_index(folder: Path, content: dict, problems: Problems) -> pyarrow.Table | None:
    """Return the index's rows in the order of their places; None where they cannot be used."""
    try:
        rows = index.read(folder)
    except InputError as error:
        problems.add("index", str(error))
        return None
    num_findings = len(manifest.findings(content))
    for column in index.schema(num_findings):
        where = f"{manifest.INDEX} column {column.name}"
        if column.name not in rows.column_names:
            problems.add("index", f"{manifest.INDEX} has no column {column.name}")
        elif (actual := rows.schema.field(column.name).type) != column.type:
            problems.add("index", f"{where}: expected {column.type}, found {actual}")
        elif nulls := rows[column.name].null_count:
            problems.add("index", f"{where}: {nulls} nulls")
    if num_findings and not problems.counts["index"]:
        lengths = pyarrow.compute.list_value_length(rows[example.FINDINGS])
        if number := pyarrow.compute.sum(pyarrow.compute.not_equal(lengths, num_findings)).as_py():
            where = f"{manifest.INDEX} column {example.FINDINGS}"
            problems.add("index", f"{where}: {number} rows have another number than {num_findings}")
    return None if problems.counts["index"] else index.in_order(rows)


def _tasks(
    folder: Path, content: dict, rows: pyarrow.Table | None, decodes_pixels: bool
) -> Iterator[Task]:
    """Yield a Task for each shard on the disk, one at a time, as each holds its rows; `rows` are in
    the order of their places."""
    if rows is not None:
        fields = example.fields_of(len(manifest.findings(content)))
        rows = rows.select([c for c in rows.column_names if c in {*index.PLACE, *fields}])
        rows_by_shard = _by_shard(rows)
    for (split, number), shard in _shards_by_number(content).items():
        path, columns = folder / shard["name"], None
        if not path.is_file():
            continue
        if rows is not None:
            columns = rows_by_shard.get((split, number), rows.slice(0, 0)).to_pydict()
        yield Task(
            path=path,
            entry=shard,
            number=number,
            dtype=content["dtype"],
            num_classes=manifest.num_classes(content),
            num_findings=len(manifest.findings(content)),
            columns=columns,
            decodes_pixels=decodes_pixels,
        )


def _shards_by_number(content: dict) -> dict[tuple[str, int], dict]:
    """Return (split, number in the split) -> the manifest's entry of that shard, in its order."""
    numbers, shards = Counter(), {}
    for shard in content["shards"]:
        shards[shard["split"], numbers[shard["split"]]] = shard
        numbers[shard["split"]] += 1
    return shards


def _by_shard(rows: pyarrow.Table) -> dict[tuple[str, int], pyarrow.Table]:
    """Return (split, shard) -> its rows, from rows in the order of their places."""
    groups = rows.group_by(["split", "shard"], use_threads=False)  # by the first row of each
    tables, start = {}, 0
    for group in groups.aggregate([([], "count_all")]).to_pylist():
        tables[group["split"], group["shard"]] = rows.slice(start, group["count_all"])
        start += group["count_all"]
    return tables


def _check_places(rows: pyarrow.Table, content: dict, problems: Problems) -> None:
    """Check that every row of the index belongs to a shard of the manifest."""
    shards = _shards_by_number(content)
    for (split, number), members in _by_shard(rows).items():
        if (split, number) not in shards:
            message = f"{len(members)} rows of shard {number} of {split}, which the manifest lacks"
            problems.add("index", message)


def _check_ids(rows: pyarrow.Table, problems: Problems) -> None:
    """Check that no image occurs twice, and that no patient is in two splits or two folds."""
    _check_once(rows, "image_id", "position", "count", "image-twice", problems)
    patients = rows.filter(pyarrow.compute.field("patient") != "")
    in_folds = patients.filter(pyarrow.compute.field("fold") >= 0)
    for part, members in (("split", patients), ("fold", in_folds)):
        kind = f"patient-across-{part}s"
        _check_once(members, "patient", part, "count_distinct", kind, problems)


def _check_once(
    rows: pyarrow.Table, key: str, column: str, function: str, kind: str, problems: Problems
) -> None:
    """Add a problem of this kind for each value of `key` (an image, a patient) whose rows have more
    than one value in `column`; `function`, pyarrow's count or count_distinct, counts the values."""
    counts = rows.group_by(key).aggregate([(column, function)])
    names = counts.filter(pyarrow.compute.field(f"{column}_{function}") > 1)[key]
    repeats = rows.filter(pyarrow.compute.is_in(rows[key], names.combine_chunks()))
    places = {}
    for row in repeats.select([key, *index.PLACE, "fold"]).to_pylist():
        place = f"{row['split']} shard {row['shard']} record {row['position']}"
        place += f" (fold {row['fold']})" if column == "fold" else ""
        places.setdefault(row[key], []).append(place)
    for name in sorted(places):
        problems.add(kind, f"{key} {name}: {', '.join(places[name][:8])}")
