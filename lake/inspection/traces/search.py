"""Below folders, look for what was made from images: each file is read, none is changed.

In: folders, Subjects. Out: Traces: paths and why they belong to the images, and what was not
looked into. Links are not followed.
"""

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from lake import InputError
from lake.inspection.traces.subjects import Subjects
from lake.predictions import exported
from lake.predictions.folder import image_id_of
from lake.records import identity, manifest, run_files

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tgz")
# Files of numbers alone, in which an id would be a chance.
NUMBERS = (".h5", ".npy", ".npz")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".tif", ".tiff")
LAKE_FILES = {manifest.MANIFEST, manifest.INDEX, manifest.REJECTS, manifest.FEATURES}
LAKE_FILES |= {manifest.DATASET_INFO, manifest.ORPHANS, manifest.ERASED, manifest.LOCK}
UNTIED = "pictures and event files name no image and lie in no such run: look at them yourself"


class Traces(NamedTuple):
    """Says what was made from the images."""

    reasons: dict[Path, list[str]]  # of files and folders, why each belongs to them
    problems: dict[Path, str]  # what was not looked into, and why
    num_untied: int  # pictures that nothing ties to an image
    num_files: int

    def lines(self) -> list[str]:
        """Return what a user reads."""
        lines = [f"{path}: {'; '.join(reasons)}" for path, reasons in sorted(self.reasons.items())]
        lines += [f"problem: {path}: {text}" for path, text in sorted(self.problems.items())]
        if self.num_untied:
            lines.append(f"note: {self.num_untied:,} {UNTIED}")
        counts = f"{len(self.reasons):,} of them or with them, {len(self.problems):,} problems"
        return [*lines, f"everywhere: {self.num_files:,} files looked at, {counts}"]


def search(folders: Sequence[Path], subjects: Subjects) -> Traces:
    """Return what was made from the images of `subjects`, to which the lakes below the folders add
    theirs. Raises InputError where a folder is none."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--everywhere={folder}: expected a folder that exists")
    traces = Traces({}, {}, 0, 0)
    paths = list(dict.fromkeys(_files(folders, traces.problems)))
    files = [path for path, _ in paths]
    lakes, roots = _lakes(files, subjects, traces), _roots(files, subjects, traces)
    num_untied = num_files = 0
    for path, below in paths:
        parents = path.parents
        if parents[0] in lakes and _is_of_lake(path):
            continue
        if path.parent.name == manifest.SIDECARS and parents[1] in lakes:
            continue
        num_files += 1
        reasons = [
            word for part in below.split("/") for word in subjects.named_for(image_id_of(part))
        ]
        is_in_root = not roots.isdisjoint(parents)
        reasons += _look(path, subjects, traces.problems, is_in_root)
        if reasons:
            traces.reasons.setdefault(path, []).extend(dict.fromkeys(reasons))
        is_picture = path.suffix.lower() in PICTURES or run_files.EVENTS in path.name
        num_untied += is_picture and not reasons and not is_in_root
    for text in subjects.too_short():
        traces.problems[Path(text)] = "an id too short to be looked for inside files, only as names"
    return traces._replace(num_untied=num_untied, num_files=num_files)


def _files(folders: Sequence[Path], problems: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    """Yield each file below the folders, and its path below the folder that was named."""

    def note(error: OSError) -> None:
        problems[Path(error.filename)] = f"cannot be read: {error.strerror}"

    seen = set()
    for folder in map(os.path.realpath, folders):
        for parent, names, files in os.walk(folder, onerror=note):
            for name in [*names, *files]:
                path = Path(parent, name)
                if path.is_symlink():
                    problems[path] = f"a link to {os.readlink(path)}, which is not followed"
                elif name in files and not path.is_file():
                    problems[path] = "no regular file, so it is not looked into"
                elif name in files and path not in seen:
                    seen.add(path)
                    yield path, str(path.relative_to(folder))


# --- folders ---


def _lakes(paths: Sequence[Path], subjects: Subjects, traces: Traces) -> set[Path]:
    """Return the folders of lakes, and add their images to the subjects and themselves to the
    traces."""
    folders = set()
    for path in paths:
        folder = path.parent
        if path.name == manifest.ERASING:
            folders.add(folder)
            traces.problems[folder] = "an erasure was interrupted; repeat it, then look again"
        if path.name != manifest.MANIFEST:
            continue
        try:
            content = manifest.load(str(folder))
            folders.add(folder)
            if num_records := subjects.add_lake(folder, content):
                title = identity.title(identity.identity(content))
                words = f"lake {title}, {num_records:,} records; radlake erase takes them out"
                traces.reasons[folder] = [words]
        except (InputError, OSError, pyarrow.ArrowException) as error:
            traces.problems[folder] = f"cannot be read as a lake: {error}"
    return folders


def _is_of_lake(path: Path) -> bool:
    return path.name in LAKE_FILES or ".tfrecord-" in path.name


def _roots(paths: Sequence[Path], subjects: Subjects, traces: Traces) -> set[Path]:
    """Return the folders of runs, caches, exports and written lakes that as a whole were made from
    the images, and add them to the traces."""
    by_folder: dict[Path, set[str]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, set()).add(path.name)
    roots = set()
    for folder, names in by_folder.items():
        try:
            reason = _reason_of_folder(folder, names, subjects)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            traces.problems[folder] = f"its description cannot be read: {error}"
            continue
        if reason:
            roots.add(folder)
            traces.reasons.setdefault(folder, []).append(reason)
    return roots


def _reason_of_folder(folder: Path, names: set[str], subjects: Subjects) -> str:
    """Return why all in a folder was made from the images; "" where it was not."""
    if run_files.SEEN in names:
        with np.load(folder / run_files.SEEN) as arrays:
            images = np.concatenate([arrays[name] for name in run_files.SEEN_IMAGES])
            counts = [subjects.count_hashes(x) for x in (images, arrays[run_files.SEEN_PATIENTS])]
        if any(counts):
            return (
                f"a run that saw {counts[0]:,} of the images and {counts[1]:,} of the patients: "
                f"its network, checkpoints, event files, reports; train again without them"
            )
        return ""
    if run_files.CACHE in names:
        source = json.loads((folder / run_files.CACHE).read_text())["source"]
        reason = _reason_of_lake(json.loads(source)[0], subjects)
        return reason and f"decoded images {reason}; a run makes them again"
    if exported.DESCRIPTION in names:
        content = json.loads((folder / exported.DESCRIPTION).read_text())
        reason = _reason_of_lake((content.get("lake") or {}).get("shards", ""), subjects)
        return reason and f"an export {reason}"
    if run_files.LAKE in names:
        content = json.loads((folder / run_files.LAKE).read_text())
        if "format" in content:
            return _reason_of_written(content, subjects)
        reason = _reason_of_lake(content.get("shards", ""), subjects)
        return reason and f"a run {reason}"
    return ""


def _reason_of_written(content: dict, subjects: Subjects) -> str:
    """Return why what `lake write` wrote has some of the images, by its description."""
    name, version, form = content["dataset"], content["version"], content["format"]
    if subjects.releases.get((name, version), set()).isdisjoint(content["splits"]):
        return ""
    return f"{name} {version} as {form}, with splits that hold them; erase, then write it again"


def _reason_of_lake(checksum: str, subjects: Subjects) -> str:
    title = subjects.lakes.get(checksum)
    return f"made from {title}, which holds them" if title else ""


# --- files ---


def _look(path: Path, subjects: Subjects, problems: dict[Path, str], is_in_root: bool) -> list[str]:
    """Return whom the content of a file names; one that cannot be read is a problem."""
    suffix = path.suffix.lower()
    try:
        if suffix in PACKED or ".array_record" in path.name:
            if not is_in_root:
                problems[path] = "packed, so it is not looked into"
            return []
        if suffix in NUMBERS or ".data-" in path.name:
            with path.open("rb"):
                return []
        if suffix == ".parquet":
            return _look_into_parquet(path, subjects)
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return []
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return subjects.named_in(data)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        problems[path] = f"cannot be read: {error}"
        return []


def _look_into_parquet(path: Path, subjects: Subjects) -> list[str]:
    """Return whom the texts of a Parquet file name."""
    with pyarrow.parquet.ParquetFile(path) as file:
        names = [field.name for field in file.schema_arrow if _has_texts(field.type)]
        words = []
        for batch in file.iter_batches(columns=names):
            for column in batch.columns:
                for text in pyarrow.compute.unique(column).to_pylist():
                    words += [f"names {subjects.names[text]}"] if text in subjects.names else []
    return list(dict.fromkeys(words))


def _has_texts(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
