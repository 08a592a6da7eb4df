"""Writes phantom chest X-rays with pneumothoraces: a seed in, dicom/*.dcm and train-rle.csv out.

For the demo, the tests and the docs: a reader takes the files for the SIIM-ACR challenge's, and
they show nobody.
"""

import argparse
import functools
import io
import math
import multiprocessing
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from beam.phantoms import xray
from lake import InputError
from lake.cli import exit_code
from lake.labels import rle

HEADER = "ImageId, EncodedPixels"  # the challenge's own, with its space
SPACING_MM = (0.140, 0.170)  # at 1024 pixels a side, as most of SIIM-ACR
JPEG_QUALITY = 87  # about the bytes of a SIIM-ACR file
MIN_SIDE, MAX_SIDE = 64, 4096
PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")
# Every four images in turn are shared out among patients: how many images each of them has.
PATIENTS_OF_FOUR = [(1, 1, 1, 1), (2, 1, 1), (1, 3), (4,)]
PATIENTS_OF_FOUR_SHARES = (0.7, 0.15, 0.1, 0.05)
TWO_LESIONS_SHARE, PORTABLE_SHARE = 0.2, 0.4
# A step of 0.146 spreads positives evenly, and lets two follow each other as one patient's do.
GOLDEN_STEP = (7 - 3 * math.sqrt(5)) / 2


def write(
    output: Path,
    images: int,
    seed: int = 0,
    side: int = 1024,
    bits: int = 8,
    photometric: str = "MONOCHROME2",
    positive_share: float = 0.22,
    processes: int = 1,
) -> None:
    """Phantoms 0 … images - 1 of a seed; each depends on its number, not on how many there are."""
    check(images, seed, side, bits, photometric, positive_share, processes)
    folder = output / "dicom"
    make_room(folder, {f"{image_id(seed, number)}.dcm" for number in range(images)})
    look = {"side": side, "bits": bits, "photometric": photometric}
    one = functools.partial(write_one, folder, seed=seed, positive_share=positive_share, **look)
    rows = [HEADER]
    if processes == 1:
        rows += collect(map(one, range(images)), images)
    else:
        # Not fork: a forked child would wait in vain for threads of the caller (TensorFlow's).
        with multiprocessing.get_context("spawn").Pool(min(processes, images)) as pool:
            rows += collect(pool.imap(one, range(images), chunksize=4), images)
    replace(output / "train-rle.csv", "".join(f"{row}\n" for row in rows).encode())


def check(images, seed, side, bits, photometric, positive_share, processes):
    rules = {
        f"--images={images}: expected 1 or more": images >= 1,
        f"--seed={seed}: expected 0 or more": seed >= 0,
        f"--side={side}: expected {MIN_SIDE} to {MAX_SIDE} pixels": MIN_SIDE <= side <= MAX_SIDE,
        f"--bits={bits}: expected 8, 12 or 16": bits in (8, 12, 16),
        f"--photometric={photometric}: expected {' or '.join(PHOTOMETRIC)}": photometric
        in PHOTOMETRIC,
        f"--positive_share={positive_share}: expected 0 to 1": 0 <= positive_share <= 1,
        f"--processes={processes}: expected 1 or more": processes >= 1,
    }
    for message, holds in rules.items():
        if not holds:
            raise InputError(message)


def make_room(folder, names, pattern="*.dcm"):
    """Makes the folder; files of an earlier run may lie in it only where this run replaces them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be made: {error.strerror}") from None
    strangers = {path.name for path in folder.glob(pattern)} - names
    if strangers:
        raise InputError(
            f"{folder}: holds {len(strangers)} files that are not of this run, such as "
            f"{min(strangers)}; name a new --output"
        )


def collect(rows_of_images, images):
    """All rows in the images' order, with a line on stderr that counts them."""
    rows = []
    every = 1 if sys.stderr.isatty() else 100
    for done, rows_of_image in enumerate(rows_of_images, start=1):
        rows += rows_of_image
        if done % every == 0 or done == images:
            end = "\r" if sys.stderr.isatty() and done < images else "\n"
            print(f"phantoms: {done} of {images}", end=end, file=sys.stderr, flush=True)
    return rows


def replace(path, content):
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def write_one(folder, number, *, seed, side, bits, photometric, positive_share):
    """Writes one DICOM file and returns its CSV rows."""
    dataset, masks = make(number, seed, side, bits, photometric, positive_share)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    replace(folder / f"{dataset.SOPInstanceUID}.dcm", buffer.getvalue())
    texts = [rle.encode(mask) for mask in masks] or [rle.EMPTY]
    return [f"{dataset.SOPInstanceUID}, {text}" for text in texts]


def make(number, seed, side, bits, photometric, positive_share):
    """Phantom `number`: its dataset, and a mask bool [side, side] for each of its lesions."""
    first, instance = patient_of(number, seed)
    rng = np.random.default_rng([seed, number])
    facts, anatomy_rng = np.random.default_rng([seed, first, 1]).spawn(2)
    sex, age = facts.choice(["F", "M"]), int(np.clip(facts.normal(50, 17), 16, 94))
    is_portable = bool(rng.random() < PORTABLE_SHARE)
    one_or_two = 2 if rng.random() < TWO_LESIONS_SHARE else 1
    num_lesions = one_or_two if is_positive(number, seed, positive_share) else 0
    view, masks = xray.draw(anatomy_rng, rng, sex, is_portable, num_lesions, side)
    dataset = header(seed, number, first, instance)
    dataset.PatientSex, dataset.PatientAge = str(sex), f"{age:03d}Y"
    dataset.ViewPosition = "AP" if is_portable else "PA"
    dataset.SeriesDescription = f"view: {dataset.ViewPosition}"
    dataset.PixelSpacing = [round(facts.uniform(*SPACING_MM) * 1024 / side, 6)] * 2
    put_pixels(dataset, view, bits, photometric)
    return dataset, [mask for mask in masks if mask.any()]


def patient_of(number, seed):
    """The number of the patient's first image, and which of the patient's this one is, from 1."""
    first = number // 4 * 4
    choice = np.random.default_rng([seed, first, 2])
    for count in PATIENTS_OF_FOUR[choice.choice(len(PATIENTS_OF_FOUR), p=PATIENTS_OF_FOUR_SHARES)]:
        if number < first + count:
            break
        first += count
    return first, number - first + 1


def is_positive(number, seed, positive_share):
    offset = np.random.default_rng([seed, 0, 3]).random()
    return (offset + number * GOLDEN_STEP) % 1 < positive_share


def image_id(seed, number):
    return uid("image", seed, number)


def uid(kind, seed, number):
    return generate_uid(entropy_srcs=[f"radlake phantom {kind}", str(seed), str(number)])


def header(seed, number, first, instance):
    """The elements of a SIIM-ACR file, with a made-up patient."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = image_id(seed, number)
    dataset.StudyInstanceUID = uid("study", seed, number)
    dataset.SeriesInstanceUID = uid("series", seed, number)
    dataset.PatientID, dataset.PatientName = f"PHANTOM-{first + 1:04d}", f"Phantom^{first + 1:04d}"
    dataset.StudyDate, dataset.StudyTime = "19010101", "000000"
    dataset.PatientBirthDate = dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber = dataset.StudyID = ""
    dataset.PatientOrientation = ["L", "F"]
    dataset.Modality, dataset.ConversionType, dataset.BodyPartExamined = "CR", "WSD", "CHEST"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, instance
    return dataset


def put_pixels(dataset, view, bits, photometric):
    """Stores a view [side, side] in 0..1: JPEG Baseline for 8 bits, else uncompressed words."""
    highest = 2**bits - 1
    stored = np.round(view * highest).astype(np.uint8 if bits == 8 else np.uint16)
    if photometric == "MONOCHROME1":
        stored = highest - stored
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = stored.itemsize * 8, bits, bits - 1
    dataset.PixelRepresentation = 0
    if bits > 8:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"
        dataset.LossyImageCompression = "00"
        dataset.PixelData = stored.astype("<u2").tobytes()
        return
    jpeg = io.BytesIO()
    Image.fromarray(stored).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
    dataset.LossyImageCompressionRatio = round(stored.size / jpeg.tell(), 2)
    dataset.PixelData = encapsulate([jpeg.getvalue()])
    dataset["PixelData"].VR = "OB"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m beam.synthetic", description=__doc__.splitlines()[0]
    )
    made.add_argument("--output", type=Path, required=True, help="a folder")
    made.add_argument("--images", type=int, default=400)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--side", type=int, default=1024, help="pixels")
    made.add_argument("--bits", type=int, default=8, help="8 (JPEG), 12 or 16 (uncompressed)")
    made.add_argument("--photometric", default="MONOCHROME2", help="or MONOCHROME1: white is air")
    made.add_argument("--positive_share", type=float, default=0.22)
    made.add_argument("--processes", type=int, help="one a core when absent")
    return made


def main(argv: list[str]) -> int:
    flags = parser().parse_args(argv)
    if flags.processes is None:
        flags.processes = multiprocessing.cpu_count()
    return exit_code(lambda: write(**vars(flags)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
