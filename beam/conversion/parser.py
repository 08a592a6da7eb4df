"""The command line of python -m beam.convert: its options, and the types of their values."""

import argparse
import re

from beam.conversion import deidentify
from beam.running.options import BEAM_OPTIONS
from lake import InputError
from lake.labels import findings, rle
from lake.scan import parse_window
from lake.sources.masks import lesions
from lake.sources.names import SOURCES
from lake.terminal import cli

SPLITS = "train=0.8,val=0.1,test=0.1"
EXAMPLE = "--images 'hospital/**.dcm' --labels masks.csv --output lakes/hospital/1.0.0"


def parser() -> argparse.ArgumentParser:
    """Return the parser of beam.convert."""
    summary = "Convert image files and labels to a lake, on any Beam runner."
    parser = cli.parser("beam.convert", summary, example=EXAMPLE, epilog=BEAM_OPTIONS)
    _add_input_options(parser.add_argument_group("input").add_argument)
    _add_label_options(parser.add_argument_group("labels").add_argument)
    _add_pixel_options(parser.add_argument_group("pixels").add_argument)
    _add_split_options(parser.add_argument_group("splits and shards").add_argument)
    _add_privacy_options(parser.add_argument_group("privacy").add_argument)
    _add_estimate_options(parser.add_argument_group("estimate").add_argument)
    return parser


def _add_input_options(add) -> None:
    """Add the options of files."""
    source = (
        "dicom; images: PNG, JPEG, TIFF, BMP, GIF; metaimage: CT as MetaImage, NIfTI, NRRD, DICOM"
    )
    add("--source", choices=SOURCES, default="dicom", help=source)
    add("--images", required=True, metavar="PATTERN", help="such as 'gs://bucket/dicom/**.dcm'")
    add("--output", required=True, metavar="ROOT/NAME/VERSION", help="folder of the lake")
    replace_help = "write a finished version anew where the command changes it"
    add("--replace", action="store_true", help=replace_help)
    append_help = (
        "make the next version of the lake that --output names, which keeps its newest version's "
        "records, splits and folds: new images get shards of their own, and where labels came or "
        "changed, their records get them"
    )
    add("--append", action="store_true", help=append_help)
    id_help = (
        "take an image's id from its file's name, its SOPInstanceUID, or its path from the first "
        "wildcard of --images on, which tells files of one name apart. Ids are stored as they are, "
        "SOPInstanceUIDs and folders that name people too, unless --image_id hash"
    )
    add("--image_id_from", choices=("name", "uid", "path"), default="name", help=id_help)
    patients = (
        "where files name no patient: a regular expression for the part of an image's path, from "
        "the first wildcard of --images on, that does, such as 'patient[0-9]+'"
    )
    add("--patient_pattern", type=_expression, metavar="REGEX", help=patients)
    frames_help = "what becomes of a file with several frames"
    add("--frames", choices=("reject", "first", "each"), default="reject", help=frames_help)
    share = {"type": cli.share, "metavar": "SHARE"}
    slices_help = "share of a volume's slices without a nodule that become records"
    add("--empty_slices", default=0.1, help=slices_help, **share)
    rejects_help = "share of rejected images above which the job fails"
    add("--max_reject_fraction", default=0.01, help=rejects_help, **share)
    add("--detach", action="store_true", help="do not wait for a remote job once it is submitted")


def _add_label_options(add) -> None:
    """Add the options of labels and masks."""
    file = "CSV of run lengths, classes or nodules, or a COCO .json; may be .gz, .xz or .zip"
    add("--labels", metavar="FILE", help=file)
    ids = "column of the label CSV with the images' ids; else one of a known name"
    add("--id_column", metavar="NAME", help=ids)
    values = "column of the label CSV with run lengths or classes; else one of a known name"
    add("--label_column", metavar="NAME", help=values)
    classes = "of a label file with several classes: those that are the lesion, or all"
    add("--classes", type=_names, default=(), metavar="NAME,NAME", help=classes)
    _add_finding_options(add)
    add("--masks", metavar="PATTERN", help="instead of a CSV: mask files with the images' names")
    suffix = "what masks' names have behind those of images, such as _mask or, for several, '_*'"
    add("--mask_suffix", default="", metavar="TEXT", help=suffix)
    values = (
        "of masks with several classes: the values, or colours, of the lesion, as 1,2 or #ff0000"
    )
    add("--mask_values", type=_values, default=(), metavar="VALUE,VALUE", help=values)
    class_folders = (
        "instead of a CSV: the folder of an image names its class, as in --images 'ROOT/*/*.png'; "
        "classes are numbered from 0 in the order of their names, an image's id is FOLDER/NAME"
    )
    add("--class_folders", action="store_true", help=class_folders)
    rle_help = "run lengths: relative (SIIM), absolute (Kaggle's 1-based, down columns), row_major"
    add("--rle", dest="dialect", choices=rle.DIALECTS, default="relative", help=rle_help)
    policies = ("reject", "negative", "keep")
    unlabelled_help = "what becomes of an image without a row or mask"
    add("--unlabelled", choices=policies, default="reject", help=unlabelled_help)


def _add_finding_options(add) -> None:
    """Add the options of several labels per image."""
    names = (
        "many labels per image, and no mask: the columns of the label CSV, or names in one of its "
        "columns, each of which becomes a label; or all"
    )
    add("--findings", type=_names, default=(), metavar="NAME,NAME", help=names)
    uncertain = "of findings: what a cell that says -1 becomes, unknown, absent or present"
    add("--uncertain", choices=(*findings.POLICIES,), default="ignore", help=uncertain)
    unmentioned = "of findings: what an empty cell becomes, absent or unknown"
    add("--unmentioned", choices=("zeros", "ignore"), default="zeros", help=unmentioned)
    readers = "of findings: an image that several read has those that any, or most, of them saw"
    add("--readers", choices=findings.READER_RULES, default="any", help=readers)


def _add_pixel_options(add) -> None:
    """Add the options that say how pixels are stored."""
    add(
        "--max_side",
        type=_side,
        default=1024,
        metavar="PIXELS",
        help="longest side in pixels, or none",
    )
    bits = (
        "bits per stored pixel (default: as in the images); needed where some images have 8 bits "
        "and others more"
    )
    add("--bits", type=int, choices=(8, 16), help=bits)
    window = "grey values that are shown: the file's own, percentiles 1 to 99, or these"
    add(
        "--window",
        type=_window,
        default="default",
        metavar="default|percentile|LOW,HIGH",
        help=window,
    )
    add("--clahe", action="store_true", help="equalise the contrast of every image's tiles")
    add("--lung_roi", action="store_true", help="CT: replace everything but the lungs by air")


def _add_split_options(add) -> None:
    """Add the options of splits and folds."""
    whole, positive = cli.at_least(1, int), cli.at_least(0.1, float)
    add("--splits", default=SPLITS, metavar="NAME=SHARE,…", help="shares of patients")
    add(
        "--folds",
        type=cli.at_least(2, int),
        default=0,
        metavar="K",
        help="parts of train and val, for cross-validation; 0: none",
    )
    add("--split_column", metavar="NAME", help="column of the label CSV with the names of splits")
    add("--splits_from", metavar="LAKE", help="keep this lake's splits, deal only new patients")
    add("--shard_mb", type=positive, default=100, metavar="MB", help="size of a shard, 10^6 bytes")
    add("--shard_images", type=whole, default=1000, metavar="N", help="most images in a shard")
    add("--min_shards", type=whole, default=4, metavar="N", help="fewest shards of a split")


def _add_privacy_options(add) -> None:
    """Add the options of de-identification."""
    hashes = "what becomes of patient, study and series ids"
    add("--deidentify", choices=("hash", "keep"), default="hash", help=hashes)
    image_ids = "what becomes of image ids; hash needs --deidentify hash"
    add("--image_id", choices=("keep", "hash"), default="keep", help=image_ids)
    secret = (
        f"the secret of the hash, which must exist; without this option {deidentify.KEY_FILE}, "
        f"created where absent"
    )
    add("--deidentify_key_file", metavar="FILE", help=secret)


def _add_estimate_options(add) -> None:
    """Add the options of --estimate."""
    estimate_help = (
        "convert nothing: print the shards, bytes and core time that a conversion would take, from "
        "the listing and the headers of a sample"
    )
    add("--estimate", action="store_true", help=estimate_help)
    sample_help = "files whose headers are read"
    add("--sample", type=cli.at_least(1, int), default=200, metavar="N", help=sample_help)
    number = {"type": cli.at_least(0, float)}
    instead = "instead of what beam/estimate/costs.py calculates"
    add("--core_seconds", metavar="S", help=f"core time per record, {instead}", **number)
    add("--record_kb", metavar="KB", help=f"10^3 bytes per record, {instead}", **number)


def _window(text: str) -> str:
    """Return the text if it is a window, which the lake parses; an argparse type."""
    try:
        parse_window(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _values(text: str) -> tuple[str, ...]:
    """Return the values of a mask's pixels; an argparse type."""
    try:
        return lesions.parse_values(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _expression(text: str) -> str:
    """Return the text if it is a regular expression; an argparse type."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def _names(text: str) -> tuple[str, ...]:
    """Return the names between commas; an argparse type."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r}: expected names with commas between them")
    return names


def _side(text: str) -> int | None:
    """Return a number of pixels, None for `none`; an argparse type."""
    return None if text == "none" else cli.at_least(1, int)(text)
