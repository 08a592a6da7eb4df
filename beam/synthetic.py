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
import multiprocessing
import sys
from pathlib import Path

from lake import InputError, pool, signals, storage
from lake.terminal import cli, progress

HEADER = "ImageId, EncodedPixels"  # with the space that the challenge's CSV has
MIN_SIDE, MAX_SIDE = 64, 4096
BITS, PHOTOMETRIC = (8, 12, 16), ("MONOCHROME1", "MONOCHROME2")


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
    from beam.phantoms import radiograph  # pydicom and its decoders take half a second to import

    folder = output / "dicom"
    make_room(folder, {f"{radiograph.image_id(seed, number)}.dcm" for number in range(images)})
    signals.set_repeat("the same command writes all files again")
    look = {"side": side, "bits": bits, "photometric": photometric}
    job = functools.partial(write_one, folder, seed=seed, positive_share=positive_share, **look)
    rows = [HEADER]
    if processes == 1:
        rows += collect(map(job, range(images)), images)
    else:
        with signals.raising(), pool.start(min(processes, images)) as processes_at_work:
            rows += collect(processes_at_work.imap(job, range(images), chunksize=4), images)
    storage.write(output / "train-rle.csv", "".join(f"{row}\n" for row in rows).encode())


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
    rows, count = [], progress.Progress("drawing", images)
    for rows_of_image in rows_of_images:
        rows += rows_of_image
        count.add()
    return rows


def write_one(folder, number, *, seed, side, bits, photometric, positive_share):
    """Write one DICOM file and return its CSV rows."""
    from beam.phantoms import radiograph
    from lake.labels import rle

    dataset, masks = radiograph.make(number, seed, side, bits, photometric, positive_share)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    storage.write(folder / f"{dataset.SOPInstanceUID}.dcm", buffer.getvalue())
    texts = [rle.encode(mask) for mask in masks] or [rle.EMPTY]
    return [f"{dataset.SOPInstanceUID}, {text}" for text in texts]


def parser() -> argparse.ArgumentParser:
    """Return the parser of beam.synthetic."""
    summary, example = __doc__.splitlines()[0], "--output data --images 400"
    parser = cli.parser("beam.synthetic", summary, example=example)
    add = parser.add_argument_group("files").add_argument
    add("--output", type=Path, required=True, metavar="FOLDER", help="for dicom/ and train-rle.csv")
    add("--images", type=cli.at_least(1), default=400, metavar="N", help="how many")
    seed = "what is drawn; an image does not depend on how many there are"
    add("--seed", type=cli.at_least(0), default=0, metavar="N", help=seed)
    add("--processes", type=cli.at_least(1), metavar="N", help="default: one per core")
    add = parser.add_argument_group("images").add_argument
    side = {"type": cli.at_least(MIN_SIDE, highest=MAX_SIDE), "default": 1024, "metavar": "PIXELS"}
    add("--side", help=f"height and width of an image, {MIN_SIDE} to {MAX_SIDE}", **side)
    add("--bits", type=int, choices=BITS, default=8, help="8 writes JPEG; the others uncompressed")
    add(
        "--photometric",
        choices=PHOTOMETRIC,
        default="MONOCHROME2",
        help="MONOCHROME1: air is white",
    )
    positives = "share of images with a lesion"
    add("--positive_share", type=cli.share, default=0.22, metavar="SHARE", help=positives)
    return parser


def main(argv: list[str]) -> int:
    flags = vars(cli.parse(parser(), argv)[0])
    flags["processes"] = flags["processes"] or multiprocessing.cpu_count()
    return cli.exit_code(lambda: write(**flags))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
