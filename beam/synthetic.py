"""Writes phantom chest X-rays with pneumothoraces: a seed in, dicom/*.dcm and train-rle.csv out.

For the demo, the tests and the docs. The files have the format of the SIIM-ACR challenge's, and
show no real patient.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

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
from lake import InputError, cli, signals, storage
from lake.labels import rle

HEADER = "ImageId, EncodedPixels"  # with the space that the challenge's CSV has
SPACING_MM = (0.140, 0.170)  # lowest and highest for 1024 pixels, as most of SIIM-ACR
JPEG_QUALITY = 87  # makes files about as large as SIIM-ACR's
MIN_SIDE, MAX_SIDE = 64, 4096
BITS, PHOTOMETRIC = (8, 12, 16), ("MONOCHROME1", "MONOCHROME2")
# Images 0-3, 4-7, … belong to one to four patients. Each tuple lists how many images each of these
# patients has, and the shares say how often a tuple is drawn.
PATIENTS_OF_FOUR = [(1, 1, 1, 1), (2, 1, 1), (1, 3), (4,)]
PATIENTS_OF_FOUR_SHARES = (0.7, 0.15, 0.1, 0.05)
TWO_LESIONS_SHARE, PORTABLE_SHARE = 0.2, 0.4
# Steps of 0.146 around a circle spread the positives evenly over the images, and still let two
# follow each other, as two images of one patient do.
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
    """Write the phantoms 0 … images - 1 of a seed; each depends on its number, not on how many
    there are. Raises InputError where `output` has files of another run."""
    folder = output / "dicom"
    make_room(folder, {f"{image_id(seed, number)}.dcm" for number in range(images)})
    signals.set_repeat("the same command writes all files again")
    look = {"side": side, "bits": bits, "photometric": photometric}
    job = functools.partial(write_one, folder, seed=seed, positive_share=positive_share, **look)
    rows = [HEADER]
    if processes == 1:
        rows += collect(map(job, range(images)), images)
    else:
        # A forked child would wait for ever for locks of threads that it does not have
        # (TensorFlow's), so start new processes.
        with signals.raising(), _pool(min(processes, images)) as pool:
            rows += collect(pool.imap(job, range(images), chunksize=4), images)
    storage.write(output / "train-rle.csv", "".join(f"{row}\n" for row in rows).encode())


def _pool(processes):
    """Return a pool of new processes."""
    with signals.kept_from_children():
        return multiprocessing.get_context("spawn").Pool(processes)


def make_room(folder, names, pattern="*.dcm"):
    """Make the folder; raise InputError where it has files of an earlier run that this run, which
    writes `names`, will not replace."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be made: {error.strerror}") from None
    # A run that was killed leaves a file that has a prefix, which the same run replaces.
    strangers = {path.name.removeprefix(storage.UNFINISHED) for path in folder.glob(pattern)}
    strangers -= names
    if strangers:
        raise InputError(
            f"{folder}: holds {len(strangers)} files that are not of this run, such as "
            f"{min(strangers)}; name a new --output"
        )


def collect(rows_of_images, images):
    """Return the rows of all images in their order; counts the images on stderr."""
    rows = []
    every = 1 if sys.stderr.isatty() else 100
    for count, rows_of_image in enumerate(rows_of_images, start=1):
        rows += rows_of_image
        if count % every == 0 or count == images:
            end = "\r" if sys.stderr.isatty() and count < images else "\n"
            print(f"phantoms: {count} of {images}", end=end, file=sys.stderr, flush=True)
    return rows


def write_one(folder, number, *, seed, side, bits, photometric, positive_share):
    """Write one DICOM file and return its CSV rows."""
    dataset, masks = make(number, seed, side, bits, photometric, positive_share)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    storage.write(folder / f"{dataset.SOPInstanceUID}.dcm", buffer.getvalue())
    texts = [rle.encode(mask) for mask in masks] or [rle.EMPTY]
    return [f"{dataset.SOPInstanceUID}, {text}" for text in texts]


def make(number, seed, side, bits, photometric, positive_share):
    """Return the dataset of phantom `number`, and a mask bool [side, side] per lesion."""
    first_number, instance = patient_of(number, seed)
    rng = np.random.default_rng([seed, number])
    facts_rng, anatomy_rng = np.random.default_rng([seed, first_number, 1]).spawn(2)
    sex, age = facts_rng.choice(["F", "M"]), int(np.clip(facts_rng.normal(50, 17), 16, 94))
    is_portable = bool(rng.random() < PORTABLE_SHARE)
    num_if_positive = 2 if rng.random() < TWO_LESIONS_SHARE else 1
    num_lesions = num_if_positive if is_positive(number, seed, positive_share) else 0
    view, masks = xray.draw(anatomy_rng, rng, sex, is_portable, num_lesions, side)
    dataset = header(seed, number, first_number, instance)
    dataset.PatientSex, dataset.PatientAge = str(sex), f"{age:03d}Y"
    dataset.ViewPosition = "AP" if is_portable else "PA"
    dataset.SeriesDescription = f"view: {dataset.ViewPosition}"
    dataset.PixelSpacing = [round(facts_rng.uniform(*SPACING_MM) * 1024 / side, 6)] * 2
    put_pixels(dataset, view, bits, photometric)
    return dataset, [mask for mask in masks if mask.any()]


def patient_of(number, seed):
    """Return the number of the patient's first image, and this image's place among the patient's
    images, from 1."""
    first_number = number // 4 * 4
    rng = np.random.default_rng([seed, first_number, 2])
    for count in PATIENTS_OF_FOUR[rng.choice(len(PATIENTS_OF_FOUR), p=PATIENTS_OF_FOUR_SHARES)]:
        if number < first_number + count:
            break
        first_number += count
    return first_number, number - first_number + 1


def is_positive(number, seed, positive_share):
    """Return whether phantom `number` has a lesion."""
    offset = np.random.default_rng([seed, 0, 3]).random()
    return (offset + number * GOLDEN_STEP) % 1 < positive_share


def image_id(seed, number):
    return uid("image", seed, number)


def uid(kind, seed, number):
    """Return a UID that depends on kind, seed and number alone."""
    return generate_uid(entropy_srcs=[f"radlake phantom {kind}", str(seed), str(number)])


def header(seed, number, first_number, instance):
    """Return a dataset with the elements of a SIIM-ACR file for phantom `number`, of an invented
    patient; `first_number` and `instance` are those of `patient_of`."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = image_id(seed, number)
    dataset.StudyInstanceUID = uid("study", seed, number)
    dataset.SeriesInstanceUID = uid("series", seed, number)
    patient = f"{first_number + 1:04d}"
    dataset.PatientID, dataset.PatientName = f"PHANTOM-{patient}", f"Phantom^{patient}"
    dataset.StudyDate, dataset.StudyTime = "19010101", "000000"
    dataset.PatientBirthDate = dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber = dataset.StudyID = ""
    dataset.PatientOrientation = ["L", "F"]
    dataset.Modality, dataset.ConversionType, dataset.BodyPartExamined = "CR", "WSD", "CHEST"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, instance
    return dataset


def put_pixels(dataset, view, bits, photometric):
    """Store a view [side, side] in 0..1: as JPEG Baseline for 8 bits, else as 16-bit words."""
    highest = 2**bits - 1
    values = np.round(view * highest).astype(np.uint8 if bits == 8 else np.uint16)
    if photometric == "MONOCHROME1":
        values = highest - values
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = values.itemsize * 8, bits, bits - 1
    dataset.PixelRepresentation = 0
    if bits > 8:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"
        dataset.LossyImageCompression = "00"
        dataset.PixelData = values.astype("<u2").tobytes()
        return
    jpeg = io.BytesIO()
    Image.fromarray(values).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
    dataset.LossyImageCompressionRatio = round(values.size / jpeg.tell(), 2)
    dataset.PixelData = encapsulate([jpeg.getvalue()])
    dataset["PixelData"].VR = "OB"


def parser() -> argparse.ArgumentParser:
    """Return the parser of beam.synthetic."""
    parser = cli.parser("beam.synthetic", __doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--images", type=cli.at_least(1), default=400, metavar="N")
    add("--seed", type=cli.at_least(0), default=0, metavar="N")
    side = {"type": cli.at_least(MIN_SIDE, highest=MAX_SIDE), "default": 1024, "metavar": "PIXELS"}
    add("--side", help=f"height and width of an image, {MIN_SIDE} to {MAX_SIDE}", **side)
    add("--bits", type=int, choices=BITS, default=8, help="8 writes JPEG; the others uncompressed")
    add(
        "--photometric",
        choices=PHOTOMETRIC,
        default="MONOCHROME2",
        help="MONOCHROME1: air is white",
    )
    add("--positive_share", type=cli.share, default=0.22, metavar="SHARE")
    add("--processes", type=cli.at_least(1), metavar="N", help="default: one per core")
    return parser


def main(argv: list[str]) -> int:
    flags = vars(parser().parse_args(argv))
    flags["processes"] = flags["processes"] or multiprocessing.cpu_count()
    return cli.exit_code(lambda: write(**flags))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
