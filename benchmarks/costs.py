"""What an image costs in each of its steps, in seconds of one core: the numbers of
beam/estimate/costs.py, and for docs/benchmarks.md those of a trainer's input.

python benchmarks/costs.py

Phantoms of 1024 px, 8 and 12 bits, coded in every way that can be written here, are taken apart as
a conversion does it; best of several rounds of CPU time. A whole conversion of small and of large
kept JPEGs, by two numbers of images, says what an image and a megabyte cost beside that. Decoding
in training is TensorFlow's, times what training_batches adds (benchmarks/input.py).
"""

import copy
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import conversion
import numpy as np
import pydicom
import SimpleITK
import tensorflow as tf
from PIL import Image
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, RLELossless

from beam import synthetic
from beam.phantoms import radiograph
from beam.running import files
from lake.scan import Header, Storage
from lake.sources import clahe, pixels, reader
from lake.sources.dicom import data_set, dicom, frames, grey
from lake.sources.volumes import lungs

ROUNDS = 5
SEED, NUMBER, SIDE = 3, 7, 1024  # of the phantom
MEGAPIXELS = SIDE**2 / 1e6
LOSSY_RATIO = 20  # of JPEG 2000
INPUT_SHARE = 0.86  # of bare decoding's images a CPU second, training_batches has so many
IMAGES, TIMES = 10, (50, 250)  # of a whole conversion
JOB_ROUNDS = 3


def least(step: Callable) -> float:
    """Seconds of CPU in its best round."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return min(seconds)


def phantom(bits: int) -> pydicom.Dataset:
    return radiograph.make(NUMBER, SEED, SIDE, bits, "MONOCHROME2", positive_share=0.2)[0]


def coded(folder: Path) -> dict[str, pydicom.Dataset]:
    """The phantom by the name of how its pixels are coded (the pixels of 12 bits, but for JPEG)."""
    deep = phantom(12)
    datasets = {"jpeg": phantom(8), "uncompressed": deep}
    syntaxes = {"rle": RLELossless, "jpeg-ls": JPEGLSLossless, "jpeg-2000": JPEG2000Lossless}
    for name, uid in syntaxes.items():
        datasets[name] = copy.deepcopy(deep)
        datasets[name].compress(uid, generate_instance_uid=False)
    datasets["jpeg-2000-lossy"] = copy.deepcopy(deep)
    datasets["jpeg-2000-lossy"].compress(
        JPEG2000, j2k_cr=[LOSSY_RATIO], generate_instance_uid=False
    )
    return datasets | {"jpeg-lossless": jpeg_lossless(deep, folder / "lossless.dcm")}


def jpeg_lossless(dataset: pydicom.Dataset, path: Path) -> pydicom.Dataset:
    """As ITK writes it: pydicom has no encoder."""
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(SimpleITK.GetImageFromArray(dataset.pixel_array))
    return pydicom.dcmread(path)


def levels_of(data: bytes, header: Header) -> np.ndarray:
    parsed = data_set.read(data, dicom.SCAN_TAGS)
    attributes = dicom.frame_attributes(parsed, 0)
    frame = frames.decode_frame(attributes, parsed.syntax, header)
    return grey.from_values(
        frame.values, frames.with_layout(attributes, frame), False, False
    ).levels


def report_codings(folder: Path) -> dict[str, np.ndarray]:
    """Prints decoding and bits per pixel of each; returns the grey levels."""
    levels = {}
    print(f"{'':18}{'decode, s/MP':>14}{'bits per pixel':>14}{'as PNG':>8}{'PNG / coded':>13}")
    for name, dataset in coded(folder).items():
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        data = buffer.getvalue()
        [header] = dicom.read_headers(io.BytesIO(data), name, len(data), "name", "reject")
        storage = Storage(8 if header.bits <= 8 else 16, None)
        coding = dicom.read_coding(io.BytesIO(data), header, storage)
        seconds = least(lambda data=data, header=header: levels_of(data, header))
        levels[name] = levels_of(data, header)
        png = len(store(levels[name], storage).image)
        print(
            f"{coding.name:18}{seconds / MEGAPIXELS:14.4f}"
            f"{coding.num_bytes * 8 / SIDE**2:14.2f}{png * 8 / SIDE**2:8.2f}"
            f"{png / coding.num_bytes:13.2f}"
        )
    return levels


def report_files(levels: dict[str, np.ndarray], folder: Path) -> None:
    """Prints what reading a kept PNG through takes, and a slice of a volume."""
    png, storage = folder / "phantom.png", Storage(8, None)
    png.write_bytes(pixels.to_png(np.uint8(levels["jpeg"])))
    volume, of_ct = folder / "phantom.mhd", Storage(16, None)
    image = np.int16(levels["uncompressed"])
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image[None]), str(volume))
    for kind, path, stored in (("images", png, storage), ("metaimage", volume, of_ct)):
        with path.open("rb") as file:
            [header] = reader.read_headers(kind, file, str(path), path.stat().st_size, "name", "")
        inputs = files.Inputs()
        read = least(
            lambda kind=kind, header=header, stored=stored, inputs=inputs: reader.read_scan(
                kind, inputs, header, stored
            )
        )
        read -= least(lambda: store(image, of_ct)) if kind == "metaimage" else 0
        print(f"{path.suffix} {read / MEGAPIXELS:.4f} s/MP")


def store(levels: np.ndarray, storage: Storage):
    highest = 255 if levels.max() <= 255 else 4095
    return pixels.store(levels, highest, (1.0, 0.0), (0.0, float(highest)), (1.0, 1.0), storage)


def report_storing(levels: dict[str, np.ndarray]) -> None:
    smooth, noisy = levels["jpeg"], levels["uncompressed"]
    for bits, image in ((8, smooth), (16, noisy)):
        seconds = least(lambda bits=bits, image=image: store(image, Storage(bits, None)))
        print(f"PNG of {bits:2} bits {seconds / MEGAPIXELS:.4f} s/MP")
    for name, image in (("smooth", smooth), ("noisy", noisy)):
        for side in (SIDE, SIDE // 2):
            bits = len(store(image, Storage(8, side)).image) * 8 / side**2
            print(f"PNG of 8 bits, {side} px, {name}: {bits:.2f} bits per pixel")
    half = len(store(noisy, Storage(16, SIDE // 2)).image) * 32 / SIDE**2
    print(f"PNG of 16 bits, {SIDE // 2} px, noisy: {half:.2f} bits per pixel")
    hu = np.rint(noisy * (1400 / 4095) - 1000).astype(np.int32)
    windowed = store(noisy, Storage(8, None)).image
    eight = np.asarray(Image.open(io.BytesIO(windowed)))
    seconds = least(lambda: store(noisy, Storage(8, None)))
    seconds -= least(lambda: store(eight, Storage(8, None)))
    print(f"to 8 bits {seconds / MEGAPIXELS:.4f} s/MP of the source")
    steps = {
        "shrink": lambda: pixels.shrink(noisy.astype(np.uint16), SIDE // 2, SIDE // 2),
        "clahe": lambda: clahe.equalise(noisy, 0.0, 4095.0, 16),
        "lung_roi": lambda: lungs.region(hu, (0.7, 0.7)),
    }
    for name, step in steps.items():
        print(f"{name} {least(step) / MEGAPIXELS:.4f} s/MP of the source")


def report_training(levels: dict[str, np.ndarray]) -> None:
    """Decoding of one thread, with what the rest of the input adds."""
    eight = np.uint8(levels["jpeg"])[..., None]
    sixteen = np.uint16(levels["uncompressed"])[..., None]
    jpeg = tf.io.encode_jpeg(eight, quality=92)
    pngs = {name: pixels.to_png(image[..., 0]) for name, image in ((8, eight), (16, sixteen))}
    steps = {
        "jpeg": lambda: tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE"),
        "png of 8 bits": lambda: tf.io.decode_png(pngs[8], dtype=tf.uint8),
        "png of 16 bits": lambda: tf.io.decode_png(pngs[16], dtype=tf.uint16),
    }
    for name, step in steps.items():
        print(f"training, {name}: {least(step) / MEGAPIXELS / INPUT_SHARE:.4f} s/MP")


def report_jobs(folder: Path) -> None:
    (folder / "key").write_bytes(bytes(32))
    listed, seconds, megabytes = {}, {}, {}
    for side in (64, SIDE):
        synthetic.write(folder / f"{side}", IMAGES, side=side)
        paths = sorted(map(str, (folder / f"{side}" / "dicom").glob("*.dcm")))
        megabytes[side] = sum(map(os.path.getsize, paths)) / len(paths) / 1e6
        for times in TIMES:
            labels = str(folder / f"{side}" / "train-rle.csv")
            links = folder / f"{side}-{times}"
            listed[side, times] = conversion.listed(paths, labels, links, times)
    for number in range(JOB_ROUNDS):  # in turn, so that a busy moment spoils all
        for job, links in listed.items():
            spent = conversion.convert(links, folder, f"{links.name}-{number}")["cpu"]
            seconds[job] = min(spent, seconds.get(job, spent))
    few, many = (IMAGES * times for times in TIMES)
    slopes = {
        side: (seconds[side, TIMES[1]] - seconds[side, TIMES[0]]) / (many - few)
        for side in megabytes
    }
    megabyte = (slopes[SIDE] - slopes[64]) / (megabytes[SIDE] - megabytes[64])
    print(f"a megabyte {megabyte:.6f} s, of files of {megabytes[SIDE]:.3f} MB")
    print(f"an image   {slopes[64] - megabyte * megabytes[64]:.6f} s")
    print(f"the start  {seconds[64, TIMES[0]] - few * slopes[64]:.2f} s")


def main() -> None:
    reader.quieten()
    with tempfile.TemporaryDirectory() as temporary:
        levels = report_codings(Path(temporary))
        report_files(levels, Path(temporary))
        report_storing(levels)
        report_training(levels)
        report_jobs(Path(temporary))


if __name__ == "__main__":
    main()
