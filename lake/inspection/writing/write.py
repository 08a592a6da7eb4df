"""A lake's splits in a format of other programs: what can be written, the folder, what it has.

In: a lake, a format, splits. Out: a new folder, which appears when it is complete, and the text
that a user reads.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lake import InputError, __version__, clock, lock, storage
from lake.inspection.writing import shards
from lake.inspection.writing.counts import Counts
from lake.inspection.writing.formats import FORMATS
from lake.records import run_files
from lake.terminal import progress

LOCK = "write.lock"  # beside the folder
SUMMARY = run_files.LAKE  # of which lake and splits it is
MASKS_ALONE = ("coco", "nnunet")  # formats in which an image without a mask says nothing


def write(folder: Path, content: dict, to: str, splits: Sequence[str], output: Path) -> str:
    """Write splits of the lake in `folder`, all where none is named, into the new folder `output`
    in the format `to`; return what a user reads. `content` is the lake's manifest. Raises
    InputError where that cannot be done, or a record is damaged."""
    splits = _splits(folder, content, splits)
    writer = _writer(to, content, splits, output)
    num_records = sum(content["counts"]["splits"][split]["records"] for split in splits)
    line = progress.Progress("writing", num_records)
    target = output.resolve()
    words = f"writes {target.name}", "give another --output"
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.hold(target.parent, f"{target.name}.{LOCK}", *words))
        unfinished_folder = stack.enter_context(storage.whole_folder(output))
        counts = writer(unfinished_folder, content, shards.read(folder, content, splits, line.add))
        summary = _summary(content, to, counts)
        (unfinished_folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    opened_by = FORMATS[to].format(folder=output, parent=target.parent)
    title = f"{output}: {content['dataset']} {content['version']} as {to}"
    return "\n".join([title, *counts.lines(), f"for {opened_by}"])


def _splits(folder: Path, content: dict, names: Sequence[str]) -> list[str]:
    """Return the splits to write; raise InputError where the lake has no such split."""
    splits = content["counts"]["splits"]
    for name in names:
        if name not in splits:
            raise InputError(f"--split={name}: no such split; {folder} has {', '.join(splits)}")
    return [split for split in splits if split in names or not names]


def _writer(to: str, content: dict, splits: list[str], output: Path) -> Callable[..., Counts]:
    """Return the function that writes a format; raise InputError where it cannot express the
    lake."""
    counts = [content["counts"]["splits"][split] for split in splits]
    if to in MASKS_ALONE and not any(part.get("with_mask", 1) for part in counts):
        raise InputError(
            f"--to {to} is for masks, and no image here has a known one; write png, parquet or "
            f"array_record, which have the labels"
        )
    match to:
        case "png":
            from lake.inspection.writing import png as module
        case "parquet":
            from lake.inspection.writing import parquet as module
        case "coco":
            from lake.inspection.writing import coco as module
        case "nnunet":
            from lake.inspection.writing import nnunet as module

            module.check(output, content, splits)
        case "array_record":
            from lake.inspection.writing import array_record as module

            module.check()
    return module.write


def _summary(content: dict, to: str, counts: Counts) -> dict:
    """Return what lake.json has."""
    summary = {"dataset": content["dataset"], "version": content["version"], "format": to}
    summary |= {"dtype": content["dtype"], "splits": counts.splits}
    for key in ("classes", "findings"):
        summary |= {key: content[key]} if key in content else {}
    return summary | {"radlake": __version__, "written": clock.now()}
