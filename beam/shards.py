"""One shard: read its images, convert, write under a temporary name, rename.

Each finished shard has a sidecar in `.work/` with its fingerprint, its rows of the index and its
rejects. A shard whose sidecar still fits is not written again.
"""

import functools
import hashlib
import io
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import metadata

import numpy as np
from apache_beam.io.filesystems import FileSystems
from PIL import Image as PillowImage

from beam import files, progress
from beam.listing import Image, reject_row
from lake import InputError, Reject, example, manifest, rle
from lake.sources import Scan, dicom

WORK = ".work"
KEY_BYTES = (16, 64)  # 64 is what BLAKE2b takes
# One image in this many is decoded for the manifest's mean and standard deviation: decoding costs
# fifty times as much as moving a JPEG into its record.
STATISTICS_EVERY = 64
WRITER_VERSION = 1  # raise it when records of the same input change
DECODERS = ("pydicom", "pillow", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "numpy")


class Stopped(RuntimeError):
    """The conversion cannot go on; the launcher prints the message."""

    OPEN, CLOSE = "[conversion stopped: ", " :end]"

    def __str__(self):
        return f"{self.OPEN}{self.args[0]}{self.CLOSE}"

    @classmethod
    def message_in(cls, text: str) -> str | None:
        """The message in a runner's text of an error; None when it is another error's."""
        return text.split(cls.OPEN)[1].split(cls.CLOSE)[0] if cls.OPEN in text else None


@dataclass(frozen=True)
class Options:
    """What the workers need to know."""

    folder: str  # ROOT/<dataset>/<version>
    dataset: str
    version: str
    max_side: int | None
    bits: int | None  # 8 | 16 | None: what the images have
    image_id_from: str
    splits: str
    unlabelled: str
    deidentify: str  # hash | keep
    key_file: str | None  # where workers read the secret; it never travels in the pipeline
    image_id: str  # keep | hash
    shard_mb: float
    min_shards: int
    max_reject_fraction: float
    progress_file: str | None

    def content(self) -> dict:
        """The options that change the lake's content."""
        names = ("dataset", "version", "max_side", "image_id_from", "image_id", "splits")
        names += ("unlabelled", "deidentify", "shard_mb", "min_shards")
        return {name: getattr(self, name) for name in names}

    def path(self, name: str) -> str:
        return FileSystems.join(self.folder, name)


def bits_kind(image: Image) -> tuple[int, str]:
    """(8 or 16, path): the stored dtype that fits an image."""
    return (8 if image.header.bits <= 8 else 16), image.header.path


def lake_bits(seen: list[tuple[int, str]], wanted: int | None) -> int:
    """The lake's one dtype, from (8 or 16, example path) of each kind seen; raises Stopped where
    they are mixed."""
    if wanted:
        return wanted
    if len(seen) > 1:
        paths = " and ".join(f"{bits} bits: {path}" for bits, path in sorted(seen))
        raise Stopped(
            f"images of 8 and of more bits in one lake ({paths}); choose --bits 8 or --bits 16"
        )
    return seen[0][0] if seen else 8


def write(keyed: tuple, lake_bits: int, options: Options) -> str:
    """((split, shard, shards), [(position, Image)]) -> the name of the shard, which then stands
    complete."""
    (split, shard, shards), images = keyed
    images = [image for _, image in sorted(images, key=lambda item: item[0])]
    name = manifest.shard_name(options.dataset, split, shard, shards)
    print_of = fingerprint(images, lake_bits, options)
    if _is_done(name, print_of, options):
        progress.tick(options.progress_file, progress.RECORD * len(images))
        return name
    # An old sidecar must not stand beside new bytes, should this worker die between the two.
    files.remove(options.path(f"{WORK}/{name}.json"))
    writer = _Writer(split, shard, lake_bits, options)
    with files.Unfinished(options.path(name)) as file:
        for image in images:
            writer.add(image, file)
    sidecar = {"fingerprint": print_of, "name": name, "split": split, **writer.result()}
    files.write_text(options.path(f"{WORK}/{name}.json"), json.dumps(sidecar))
    return name


def fingerprint(images: list[Image], lake_bits: int, options: Options) -> str:
    """What a shard's bytes depend on, hashed."""
    versions = {name: metadata.version(name) for name in DECODERS}
    key = hashlib.sha256(read_key(options.key_file)).hexdigest() if options.key_file else ""
    inputs = [(asdict(image.header), asdict(image.label)) for image in images]
    content = [WRITER_VERSION, options.content(), lake_bits, key, versions, inputs]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _Writer:
    """What one shard adds up to while its records are written."""

    def __init__(self, split: str, shard: int, lake_bits: int, options: Options):
        self.split, self.shard, self.lake_bits, self.options = split, shard, lake_bits, options
        self.rows, self.rejects, self.bytes, self.sha256 = [], [], 0, hashlib.sha256()
        self.sums = Counter()

    def add(self, image: Image, file) -> None:
        header = image.header
        try:
            with files.open_binary(header.path) as opened:
                data = opened.read()
            scan = dicom.read_scan(data, header.path, self.options.max_side, self.lake_bits)
        except Reject as reject:
            self.rejects.append(reject_row(header.path, header.image_id, reject))
            progress.tick(self.options.progress_file, progress.REJECTED)
            return
        fields = record(image, scan, self.options)
        framed = example.frame(example.encode(fields))
        file.write(framed)
        self.bytes += len(framed)
        self.sha256.update(framed)
        self._count(fields, scan)
        progress.tick(self.options.progress_file, progress.RECORD)

    def _count(self, fields: dict, scan: Scan) -> None:
        position = len(self.rows)
        row = {"split": self.split, "shard": self.shard, "position": position}
        for name in manifest.INDEX_SCHEMA.names[3:]:
            value = fields[name]
            row[name] = value.decode() if isinstance(value, bytes) else value
        self.rows.append(row)
        if fields["has_mask"]:
            num_pixels = scan.height * scan.width
            self.sums.update(mask_pixels=num_pixels, lesion_pixels=fields["lesion_px"])
            self.sums.update(pixels_of_positives=num_pixels * fields["label"])
        if position % STATISTICS_EVERY == 0:
            pixels = np.asarray(PillowImage.open(io.BytesIO(scan.image))).astype(np.int64)
            self.sums.update(sampled_images=1, sampled_pixels=pixels.size)
            self.sums.update(total=int(pixels.sum()), squares=int((pixels**2).sum()))

    def result(self) -> dict:
        return {
            "records": len(self.rows),
            "bytes": self.bytes,
            "sha256": self.sha256.hexdigest(),
            "rows": self.rows,
            "rejects": self.rejects,
            "sums": dict(self.sums),
        }


def record(image: Image, scan: Scan, options: Options) -> dict:
    """The fields of lake.example.FIELDS."""
    header, label = image.header, image.label
    mask_png, lesion_px = _mask(image, scan)
    return {
        "image_id": _pseudonym("image", header.image_id, options)
        if options.image_id == "hash"
        else header.image_id.encode(),
        "image": scan.image,
        "mask": mask_png,
        "has_mask": int(label.has_mask),
        "label": label.label,
        "lesion_px": lesion_px,
        "original_rle": label.rle.encode(),
        "height": scan.height,
        "width": scan.width,
        "original_height": header.height,
        "original_width": header.width,
        "original_bits": header.bits,
        "pixel_spacing_mm": scan.pixel_spacing_mm,
        "rescale": scan.rescale,
        "window": scan.window,
        "encoding": scan.encoding.encode(),
        "patient": _pseudonym("patient", header.patient, options),
        "study": _pseudonym("study", header.study, options),
        "series": _pseudonym("series", header.series, options),
        "view": header.view.encode(),
        "sex": header.sex.encode(),
        "modality": header.modality.encode(),
        "age": header.age,
        "slice_mm": math.nan,
        "fold": -1,
    }


def _mask(image: Image, scan: Scan) -> tuple[bytes, int]:
    """(PNG, set pixels or -1) of the mask at the stored size."""
    header, label = image.header, image.label
    if not label.has_mask or not label.lesion_px:
        return _empty_mask(scan.height, scan.width), 0 if label.has_mask else -1
    num_pixels = header.height * header.width
    mask = rle.to_mask(rle.runs(label.rle, num_pixels), header.height, header.width)
    if mask.shape != (scan.height, scan.width):
        mask = (dicom.shrink(mask, scan.height, scan.width) >= 128).astype(np.uint8) * 255
    return dicom.to_png(mask), int(np.count_nonzero(mask))


@functools.lru_cache(maxsize=64)
def _empty_mask(height: int, width: int) -> bytes:
    return dicom.to_png(np.zeros((height, width), np.uint8))


def _pseudonym(kind: str, name: str, options: Options) -> bytes:
    """Keyed hash of a patient's or study's name; without a key the name itself; empty stays
    empty."""
    if not name or not options.key_file:
        return name.encode()
    hashed = hashlib.blake2b(
        f"{kind}/{name}".encode(), key=read_key(options.key_file), digest_size=16
    )
    return hashed.hexdigest().encode()


@functools.cache
def read_key(path: str) -> bytes:
    """The secret of the pseudonyms; raises InputError when it is none."""
    if not FileSystems.exists(path):
        raise InputError(
            f"--deidentify_key_file={path}: no such file; make one with: openssl rand -out {path} "
            f"32"
        )
    with files.open_binary(path) as file:
        key = file.read()
    if not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
        raise InputError(
            f"{path}: {len(key)} bytes, expected a secret of {KEY_BYTES[0]} to {KEY_BYTES[1]}"
        )
    return key


def _is_done(name: str, print_of: str, options: Options) -> bool:
    sidecar_path = options.path(f"{WORK}/{name}.json")
    if not (FileSystems.exists(sidecar_path) and FileSystems.exists(options.path(name))):
        return False
    sidecar = json.loads(files.read_text(sidecar_path))
    [found] = FileSystems.match([options.path(name)])[0].metadata_list
    return sidecar["fingerprint"] == print_of and sidecar["bytes"] == found.size_in_bytes
