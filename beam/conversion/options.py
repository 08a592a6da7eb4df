"""Options of python -m beam.convert: flags in, ConversionOptions for the workers out. A mistake in
the flags is reported before a worker starts."""

import argparse
from dataclasses import dataclass

from beam.conversion import deidentify, earlier_lake, label_file, quotas
from beam.conversion.parser import parser
from beam.running import paths, patterns
from beam.running.options import WORK
from lake import InputError
from lake.labels import columns
from lake.records import manifest
from lake.records.erased import Erased
from lake.records.identity import ancestry
from lake.scan import Storage

# flag -> (the only source that has it, its default)
SINGLE_SOURCE_FLAGS = {
    "frames": ("dicom", "reject"),
    "class_folders": ("images", False),
    "lung_roi": ("metaimage", False),
    "empty_slices": ("metaimage", 0.1),
}
# Those of a multi-label lake alone, with their defaults.
FINDING_FLAGS = {"uncertain": "ignore", "unmentioned": "zeros", "readers": "any"}
ESTIMATE_FLAGS = ("sample", "core_seconds", "record_kb")


@dataclass(frozen=True)
class ConversionOptions:
    """Holds everything that the workers need from the command line."""

    folder: str  # ROOT/<dataset>/<version>
    dataset: str
    version: str
    source: str  # dicom | images | metaimage
    images: str  # pattern of files
    labels: str | None  # path of a CSV
    masks: str | None  # pattern of mask files
    mask_suffix: str  # pattern of what their names have behind those of the images
    mask_values: tuple[str, ...]  # of the lesion; none: all but 0
    class_folders: bool  # an image's folder names its class
    image_id_from: str  # name | uid | path
    patient_pattern: str | None  # of the part of a path that names the patient
    frames: str  # reject | first | each
    dialect: str  # of run-length texts
    unlabelled: str  # reject | negative | keep
    empty_slices: float  # share of a volume's slices without a nodule that become records
    max_side: int | None
    bits: int | None  # 8 | 16 | None: as the images have
    window: str  # default | percentile | LOW,HIGH
    clahe: bool
    lung_roi: bool
    splits: str
    folds: int
    split_column: str | None
    id_column: str | None
    label_column: str | None
    classes: tuple[str, ...]  # of the label file: those that are the lesion
    findings: tuple[str, ...]  # of a multi-label lake, in the order of its records' values
    uncertain: str  # ignore | zeros | ones: of a finding that is -1
    unmentioned: str  # zeros | ignore: of a finding whose cell is empty
    readers: str  # any | majority: of the readers of an image
    splits_from: str | None  # folder of an earlier lake
    deidentify: str  # hash | keep
    key_file: str | None  # where workers read the secret; it never travels in the pipeline
    image_id: str  # keep | hash
    shard_mb: float
    shard_images: int
    min_shards: int
    max_reject_fraction: float
    progress_file: str | None
    # Identities of the lake of `splits_from` and of those that it continues, as it is now: it may
    # be this folder, whose manifest goes while shards are written.
    earlier_lakes: tuple[dict, ...] = ()
    base: earlier_lake.Base | None = None  # the version that an append continues
    erased: Erased | None = None  # what is not to come back
    keeps_finished: bool = False  # the folder has a finished version, which must stay as it is

    @property
    def classes_root(self) -> str | None:
        """Return the folder that holds the class folders, None without `--class_folders`."""
        return patterns.fixed_folder(self.images) if self.class_folders else None

    @property
    def earlier_classes(self) -> tuple[str, ...]:
        """Return the class folders of the version that an append continues."""
        return self.base.classes if self.base else ()

    def storage(self, lake_bits: int) -> Storage:
        return Storage(lake_bits, self.max_side, self.window, self.clahe, self.lung_roi)

    def for_records(self) -> dict:
        """Return the options that change the bytes of a record of the same image and label."""
        names = ("source", "max_side", "window", "clahe", "lung_roi", "deidentify", "image_id")
        return {name: getattr(self, name) for name in names}

    def for_lake(self) -> dict:
        """Return the options that change the content of the lake, as the manifest lists them."""
        names = ("dataset", "version", "image_id_from", "frames", "class_folders", "dialect")
        names += ("unlabelled", "empty_slices", "splits", "folds", "split_column", "splits_from")
        names += ("shard_mb", "shard_images", "min_shards", "id_column", "label_column", "classes")
        names += ("mask_suffix", "mask_values")
        # A lake without these is as it was before they could be.
        names += ("findings", *FINDING_FLAGS) if self.findings else ()
        names += ("patient_pattern",) if self.patient_pattern else ()
        return {**{name: getattr(self, name) for name in names}, **self.for_records()}

    def path(self, name: str) -> str:
        return paths.join(self.folder, name)

    def work_path(self, name: str) -> str:
        return paths.join(self.folder, WORK, name)

    def sidecar(self, shard: str) -> str:
        return self.work_path(f"{shard}.json")


# --- inputs: files and labels ---


def check_inputs(flags: argparse.Namespace) -> columns.Layout | None:
    """Return the columns of the label CSV, None without one; raise InputError where inputs are
    missing or do not fit together."""
    for name in ("images", "masks"):
        patterns.check_matches(name, getattr(flags, name))
    names = [f"--{name}" for name in ("labels", "masks", "class_folders") if getattr(flags, name)]
    if len(names) > 1:
        raise InputError(f"{' and '.join(names)}: expected one of them")
    if flags.class_folders and flags.unlabelled != "reject":
        raise InputError(f"--unlabelled={flags.unlabelled}: --class_folders labels every image")
    if flags.class_folders and not patterns.has_folders(flags.images):
        raise InputError(
            f"--class_folders: --images={flags.images} names one folder; expected a wildcard for "
            f"the classes' folders, such as 'ROOT/*/*.png'"
        )
    if flags.masks and flags.source == "metaimage":
        raise InputError("--source metaimage takes its labels from a nodule CSV, not from --masks")
    for name in ("split_column", "id_column", "label_column", "classes", "findings"):
        if getattr(flags, name) and not flags.labels:
            raise InputError(f"--{name} needs --labels")
    if flags.findings and flags.classes:
        raise InputError(
            "--findings and --classes: expected one of them; with --findings each name is a label "
            "of its own, with --classes all are one lesion"
        )
    for name, default in FINDING_FLAGS.items():
        if getattr(flags, name) != default and not flags.findings:
            raise InputError(f"--{name} needs --findings")
    for name in ("mask_suffix", "mask_values"):
        if getattr(flags, name) and not flags.masks:
            raise InputError(f"--{name} needs --masks")
    if flags.split_column and flags.splits_from and not flags.append:
        raise InputError("--split_column and --splits_from: expected one of them")
    if not names and flags.unlabelled == "reject":
        raise InputError(
            "without --labels, --masks or --class_folders say --unlabelled keep (or negative)"
        )
    return label_file.layout(flags) if flags.labels else None


# --- the other flags ---


def from_flags(
    flags: argparse.Namespace,
    is_local: bool,
    progress_file: str | None,
    layout: columns.Layout | None = None,
) -> ConversionOptions:
    """Return the workers' options, with the findings of the label CSV's `layout`; create the secret
    of a local run that has none. Raises InputError where flags contradict each other."""
    splits = quotas.parse(flags.splits)
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
    for name, (source, default) in SINGLE_SOURCE_FLAGS.items():
        if flags.source != source and getattr(flags, name) != default:
            raise InputError(f"--{name} is for --source {source}, not {flags.source}")
    if flags.image_id_from == "uid" and flags.source != "dicom":
        raise InputError(f"--image_id_from=uid is for --source dicom, not {flags.source}")
    earlier_lakes = ()
    if flags.splits_from:
        names = {name for name, _ in splits}
        earlier_lakes = ancestry(earlier_lake.check(flags.splits_from, names, flags.folds))
    if flags.estimate and flags.detach:
        raise InputError("--detach leaves a job when it is submitted; --estimate submits none")
    default = parser().get_default
    names = [f"--{name}" for name in ESTIMATE_FLAGS if getattr(flags, name) != default(name)]
    if names and not flags.estimate:
        raise InputError(f"{', '.join(names)}: only with --estimate")
    is_hashed = flags.deidentify == "hash" and not flags.estimate  # an estimate writes no id
    fields = ConversionOptions.__annotations__
    return ConversionOptions(
        **{name: value for name, value in vars(flags).items() if name in fields}
        | {"findings": layout.findings if layout else ()},
        folder=flags.output.rstrip("/"),
        dataset=parts[-2],
        version=parts[-1],
        key_file=deidentify.key_file(flags.deidentify_key_file, is_local) if is_hashed else None,
        progress_file=progress_file,
        earlier_lakes=tuple(earlier_lakes),
        keeps_finished=not flags.replace and not flags.estimate and _is_finished(flags.output),
    )


def _is_finished(output: str) -> bool:
    """Return whether the folder holds a finished lake."""
    return paths.exists(paths.join(output.rstrip("/"), manifest.MANIFEST))
