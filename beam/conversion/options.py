"""The options of python -m beam.convert: flags -> Options. What can be wrong with them is said
before a worker starts."""

import argparse
import itertools
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam.conversion import deidentify, folders, quotas
from beam.running import files, options
from beam.running.options import WORK
from lake import InputError, cli
from lake.labels import rle, tables
from lake.records import manifest
from lake.scan import Storage
from lake.sources import pixels, reader

KEY_FILE = Path("~/.config/radlake/deidentify.key")
# flag -> (the one source that knows it, its default)
OF_ONE_SOURCE = {
    "frames": ("dicom", "reject"),
    "image_id_from": ("dicom", "name"),
    "class_folders": ("images", False),
    "lung_roi": ("metaimage", False),
    "empty_slices": ("metaimage", 0.1),
}
OF_ESTIMATE = (
    *("sample", "core_seconds", "record_kb", "accelerators", "images_per_second"),
    *("price_vcpu_hour", "price_gb_hour", "price_gb_month", "price_gb_read"),
)
SNIFFED_TEXTS = 1000  # run-length texts that are looked at before a conversion starts


@dataclass(frozen=True)
class ConversionOptions:
    """What the workers need to know."""

    folder: str  # ROOT/<dataset>/<version>
    dataset: str
    version: str
    source: str  # dicom | images | metaimage
    image_id_from: str  # name | uid
    frames: str  # reject | first | each
    class_folders: bool  # an image's folder names its class
    dialect: str  # of run-length texts
    unlabelled: str  # reject | negative | keep
    empty_slices: float  # share of a volume's slices without a nodule that are taken
    max_side: int | None
    bits: int | None  # 8 | 16 | None: what the images have
    window: str  # default | percentile | LOW,HIGH
    clahe: bool
    lung_roi: bool
    splits: str
    folds: int
    split_column: str | None
    splits_from: str | None  # folder of an earlier lake
    deidentify: str  # hash | keep
    key_file: str | None  # where workers read the secret; it never travels in the pipeline
    image_id: str  # keep | hash
    shard_mb: float
    shard_images: int
    min_shards: int
    max_reject_fraction: float
    progress_file: str | None

    def storage(self, lake_bits: int) -> Storage:
        return Storage(lake_bits, self.max_side, self.window, self.clahe, self.lung_roi)

    def of_records(self) -> dict:
        """The options that change the bytes of a record whose image and label are given."""
        names = ("source", "max_side", "window", "clahe", "lung_roi", "deidentify", "image_id")
        return {name: getattr(self, name) for name in names}

    def content(self) -> dict:
        """The options that change the lake's content."""
        names = ("dataset", "version", "image_id_from", "frames", "class_folders", "dialect")
        names += ("unlabelled", "empty_slices", "splits", "folds", "split_column", "splits_from")
        names += ("shard_mb", "shard_images", "min_shards")
        return {**{name: getattr(self, name) for name in names}, **self.of_records()}

    def path(self, name: str) -> str:
        return FileSystems.join(self.folder, name)

    def work(self, name: str) -> str:
        return FileSystems.join(self.folder, WORK, name)

    def sidecar(self, shard: str) -> str:
        return self.work(f"{shard}.json")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m beam.convert",
        description="Image files and labels -> a lake, on any Beam runner.",
        epilog="Beam's own options (--runner, --direct_num_workers, --project, …) pass through.",
        allow_abbrev=False,
    )
    _add_inputs(made.add_argument_group("input").add_argument)
    _add_pixels(made.add_argument_group("pixels").add_argument)
    _add_splits(made.add_argument_group("splits and shards").add_argument)
    _add_privacy(made.add_argument_group("privacy").add_argument)
    _add_estimate(made.add_argument_group("estimate").add_argument)
    return made


def _add_inputs(add) -> None:
    add("--source", choices=reader.NAMES, default="dicom", help="what the files are")
    add("--images", required=True, metavar="PATTERN", help="such as 'gs://bucket/dicom/**.dcm'")
    add("--labels", metavar="CSV", help="run lengths, classes or nodules by image; may be .gz")
    add("--masks", metavar="PATTERN", help="instead of a CSV: mask images of the same file names")
    add(
        "--class_folders",
        action="store_true",
        help="instead of a CSV: the folder that an image lies in names its class, as in --images "
        "'ROOT/*/*.png'; classes are numbered from 0 in the order of their names, an image's id is "
        "FOLDER/NAME",
    )
    add("--output", required=True, metavar="ROOT/NAME/VERSION", help="folder of the lake")
    add(
        *("--rle",),
        dest="dialect",
        choices=rle.DIALECTS,
        default="relative",
        help="run lengths: relative (SIIM), absolute (Kaggle's 1-based, down columns), row_major",
    )
    policies = ("reject", "negative", "keep")
    add("--unlabelled", choices=policies, default="reject", help="images without a row or mask")
    add("--image_id_from", choices=("name", "uid"), default="name", help="file or SOPInstanceUID")
    choices = ("reject", "first", "each")
    add("--frames", choices=choices, default="reject", help="of a multi-frame file")
    a_share = {"type": cli.share, "metavar": "SHARE"}
    help_text = "of a volume's slices without a nodule, take this share"
    add("--empty_slices", default=0.1, help=help_text, **a_share)
    add("--max_reject_fraction", default=0.01, help="above it the job fails", **a_share)
    add("--detach", action="store_true", help="leave a remote job when it is submitted")


def _add_pixels(add) -> None:
    add("--max_side", type=_side, default=1024, help="longest side in pixels, or none")
    add("--bits", type=int, choices=(8, 16), help="stored bits; needed when the images have both")
    add("--window", type=_window, default="default", metavar="default|percentile|LOW,HIGH")
    add("--clahe", action="store_true", help="equalise the contrast of every image's tiles")
    add("--lung_roi", action="store_true", help="CT: make air of what is not lung")


def _add_splits(add) -> None:
    add("--splits", default="train=0.8,val=0.1,test=0.1", help="shares of patients")
    add("--folds", type=cli.at_least(2, int), default=0, metavar="K", help="within train and val")
    add("--split_column", metavar="NAME", help="the label CSV's column that says the split")
    add("--splits_from", metavar="LAKE", help="keep this lake's splits, deal only new patients")
    add(
        "--shard_mb", type=cli.at_least(0.1, float), default=100, help="size of a shard, 10^6 bytes"
    )
    add(
        "--shard_images", type=cli.at_least(1, int), default=1000, help="at most so many in a shard"
    )
    add("--min_shards", type=cli.at_least(1, int), default=4, help="shards of a split, at least")


def _add_privacy(add) -> None:
    hashes = "patient, study and series ids"
    add("--deidentify", choices=("hash", "keep"), default="hash", help=hashes)
    add("--image_id", choices=("keep", "hash"), default="keep", help="hash: as --deidentify does")
    made_at = f"secret of the hash; made at {KEY_FILE} when absent"
    add("--deidentify_key_file", metavar="FILE", help=made_at)


def _add_estimate(add) -> None:
    what = "convert nothing: say what it would take, from the listing and the headers of a sample"
    add("--estimate", action="store_true", help=what)
    a_number = {"type": cli.at_least(0, float)}
    sample = "files whose headers are read"
    add("--sample", type=cli.at_least(1, int), default=200, metavar="N", help=sample)
    add(
        "--core_seconds",
        metavar="S",
        help="of a record, instead of beam/estimate/costs.py's",
        **a_number,
    )
    add("--record_kb", metavar="KB", help="10^3 bytes of a record, instead of the same", **a_number)
    k = "accelerators that train on the lake"
    add("--accelerators", type=cli.at_least(1, int), default=8, metavar="K", help=k)
    r = "of one accelerator, as python -m trainer.task benchmark measures it; several to compare"
    rates = {"nargs": "+", "default": [10.0, 50.0, 250.0], "metavar": "R"}
    add("--images_per_second", help=r, **rates, **a_number)
    dollars = {"metavar": "DOLLARS", **a_number}
    # Of us-central1, from memory: a reader has to look them up.
    look = "; the default is from memory: look it up"
    add("--price_vcpu_hour", default=0.056, help=f"of a Dataflow worker{look}", **dollars)
    add("--price_gb_hour", default=0.003557, help=f"of a worker's memory{look}", **dollars)
    add("--price_gb_month", default=0.02, help=f"of the lake on gs://{look}", **dollars)
    add("--price_gb_read", default=0.0, help="of reading the images; 0: same region", **dollars)


def check_inputs(flags: argparse.Namespace) -> tables.Layout | None:
    """The columns of the label CSV, None without one; raises InputError where inputs are missing or
    do not fit together."""
    for name in ("images", "masks"):
        options.check_matches(name, getattr(flags, name))
    given = [name for name in ("labels", "masks", "class_folders") if getattr(flags, name)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(f'--{name}' for name in given)}: expected one of them")
    if flags.class_folders and flags.unlabelled != "reject":
        raise InputError(f"--unlabelled={flags.unlabelled}: --class_folders leaves none without")
    if flags.class_folders and not folders.has_folders(flags.images):
        raise InputError(
            f"--class_folders: --images={flags.images} names one folder; expected a wildcard for "
            f"the classes' folders, such as 'ROOT/*/*.png'"
        )
    if flags.masks and flags.source == "metaimage":
        raise InputError("--source metaimage takes its labels from a nodule CSV, not from --masks")
    if flags.split_column and not flags.labels:
        raise InputError("--split_column needs --labels")
    if flags.split_column and flags.splits_from:
        raise InputError("--split_column and --splits_from: expected one of them")
    if not flags.labels:
        if not given and flags.unlabelled == "reject":
            raise InputError(
                "without --labels, --masks or --class_folders say --unlabelled keep (or negative)"
            )
        return None
    if not FileSystems.exists(flags.labels):
        raise InputError(f"--labels={flags.labels}: no such file")
    try:
        layout = _sniffed(flags)
    except tables.DAMAGED as error:
        raise InputError(f"--labels={flags.labels}: not readable: {error}") from None
    if (layout.kind == "nodule") != (flags.source == "metaimage"):
        raise InputError(
            f"--labels={flags.labels} is a {layout.kind} CSV; --source metaimage takes "
            f"seriesuid,coordX,coordY,coordZ,diameter_mm, the other sources run lengths or classes"
        )
    return layout


def label_kind(flags: argparse.Namespace, layout: tables.Layout | None) -> str:
    """What the rows of labels say: rle, class, folder or nodule."""
    if flags.class_folders:
        return "folder"
    return layout.kind if layout else "rle"


def _sniffed(flags: argparse.Namespace) -> tables.Layout:
    """The label CSV's columns, after a look at its first rows."""
    with files.open_unpacked(flags.labels) as file:
        layout = tables.layout(file, flags.labels, flags.split_column)
    if layout.kind == "rle":
        with files.open_unpacked(flags.labels) as file:
            rows = itertools.islice(tables.read(file, layout), SNIFFED_TEXTS)
            conflict = rle.dialect_conflict([row.value or "" for _, row in rows], flags.dialect)
        if conflict:
            raise InputError(f"--labels={flags.labels}: {conflict}")
    return layout


def from_flags(
    flags: argparse.Namespace, is_local: bool, progress_file: str | None
) -> ConversionOptions:
    """The workers' Options; raises InputError, makes the key where a local run has none."""
    names = {name for name, _ in quotas.parse(flags.splits)}
    parts = flags.output.rstrip("/").split("/")
    if len(parts) < 2 or not all(part[:1].isalnum() for part in parts[-2:]):
        raise InputError(
            f"--output={flags.output}: expected ROOT/NAME/VERSION, such as lakes/siim/1.0.0"
        )
    version = parts[-1].split(".")
    if len(version) != 3 or not all(part.isdigit() for part in version):
        raise InputError(
            f"--output={flags.output}: the version {parts[-1]} is not three numbers, such as 1.0.0"
        )
    if flags.image_id == "hash" and flags.deidentify == "keep":
        raise InputError("--image_id=hash needs --deidentify=hash")
    for name, (of_source, default) in OF_ONE_SOURCE.items():
        if flags.source != of_source and getattr(flags, name) != default:
            raise InputError(f"--{name} is for --source {of_source}, not {flags.source}")
    if flags.splits_from:
        _check_earlier(flags, names)
    _check_estimate(flags)
    is_hashed = flags.deidentify == "hash" and not flags.estimate  # which writes no id
    given = {
        name: value
        for name, value in vars(flags).items()
        if name in ConversionOptions.__annotations__
    }
    return ConversionOptions(
        **given,
        folder=flags.output.rstrip("/"),
        dataset=parts[-2],
        version=parts[-1],
        key_file=_key_file(flags.deidentify_key_file, is_local) if is_hashed else None,
        progress_file=progress_file,
    )


def _check_estimate(flags: argparse.Namespace) -> None:
    if flags.estimate and flags.detach:
        raise InputError("--detach leaves a job when it is submitted; --estimate submits none")
    defaults = parser()
    given = [name for name in OF_ESTIMATE if getattr(flags, name) != defaults.get_default(name)]
    if given and not flags.estimate:
        raise InputError(f"{', '.join(f'--{name}' for name in given)}: only with --estimate")


def _check_earlier(flags: argparse.Namespace, names: set[str]) -> None:
    folder = flags.splits_from
    path = FileSystems.join(folder, manifest.MANIFEST)
    if not FileSystems.exists(path):
        raise manifest.missing(folder)
    earlier = manifest.parse(files.read_text(path), folder)
    unknown = set(earlier["counts"]["splits"]) - names
    if unknown:
        raise InputError(
            f"--splits_from={folder} has the splits {sorted(unknown)}, which --splits="
            f"{flags.splits} lacks; name the same splits in both"
        )
    if earlier["options"]["folds"] != flags.folds:
        raise InputError(
            f"--splits_from={folder} has {earlier['options']['folds']} folds, --folds says "
            f"{flags.folds}; use the same"
        )


def _key_file(path: str | None, is_local: bool) -> str:
    """Where the secret of the pseudonyms is: whoever has it can test a guessed patient id on a
    lake."""
    if not path and not is_local:
        raise InputError("a remote runner needs --deidentify_key_file (or --deidentify keep)")
    made = KEY_FILE.expanduser()
    if not path and not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(".unfinished")
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(secrets.token_bytes(32))
        unfinished.replace(made)
        print(
            f"made {made}: the secret that hashes patient ids; keep it with the images, "
            "not with the lake",
            file=sys.stderr,
        )
    deidentify.read_key(path or str(made))
    return path or str(made)


def _window(text: str) -> str:
    try:
        pixels.parse_window(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _side(text: str) -> int | None:
    return None if text == "none" else cli.at_least(1, int)(text)
