"""What a conversion costs beside the least it could: CPU, memory and time as ratios in one run.

python benchmarks/conversion.py --images 'data/dicom/*.dcm' --labels data/train-rle.csv

The images must be JPEG-Baseline DICOMs that a lake keeps as they are (SIIM-ACR's are). They are
listed 10 times over, as links with names of their own. Needs TensorFlow for the bare loop.
"""

import argparse
import contextlib
import csv
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMES = 10
ROUNDS = 3
BARE_LOOP = """
import io, sys, time
import pydicom, tensorflow as tf
from pydicom.encaps import generate_frames
paths = open(sys.argv[1]).read().split()
start = time.process_time()
with tf.io.TFRecordWriter(sys.argv[2]) as writer:
    for path in paths:
        with open(path, "rb") as file:
            dataset = pydicom.dcmread(io.BytesIO(file.read()))
        writer.write(next(generate_frames(dataset.PixelData, number_of_frames=1)))
print((time.process_time() - start) / len(paths))
"""
DECODE_LOOP = """
import io, sys, time
import pydicom, tensorflow as tf
from PIL import Image
paths = open(sys.argv[1]).read().split()[:100]
start = time.process_time()
with tf.io.TFRecordWriter(sys.argv[2]) as writer:
    for path in paths:
        buffer = io.BytesIO()
        Image.fromarray(pydicom.dcmread(path).pixel_array).save(buffer, "PNG")
        writer.write(buffer.getvalue())
print((time.process_time() - start) / len(paths))
"""


@contextlib.contextmanager
def inputs(description: str) -> Iterator[tuple[Path, list[str], str]]:
    """Yield a temporary folder with the key of the hashes, the images and the labels that the
    command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", required=True)
    parser.add_argument("--labels", required=True)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "key").write_bytes(bytes(32))
        yield folder, sorted(glob.glob(flags.images)), flags.labels


def main() -> None:
    with inputs(__doc__.splitlines()[0]) as (folder, paths, labels):
        runs, bare = {}, []
        for times in (1, TIMES // 2, TIMES):
            images = listed(paths, labels, folder / str(times), times)
            runs[times] = convert(images, folder, f"kept-{times}")
        (folder / "paths.txt").write_text("\n".join(sorted(map(str, images.glob("*.dcm")))))
        many = runs[TIMES]
        for _ in range(ROUNDS):  # in turn, so that a busy moment spoils both
            bare.append(python(BARE_LOOP, folder))
            again = convert(images, folder, "again")
            shutil.rmtree(folder / "again")
            many["cpu"] = min(many["cpu"], again["cpu"])
        bare, decoded = min(bare), python(DECODE_LOOP, folder)
        per_image = many["cpu"] / (TIMES * len(paths))
        print(
            f"whole job      {per_image * 1e3:8.2f} ms of CPU an image, {TIMES * len(paths)} images"
        )
        print(
            f"bare loop      {bare * 1e3:8.2f} ms; the job takes {per_image / bare:.2f}x (bar: 2)"
        )
        print(
            f"decode and PNG {decoded * 1e3:8.2f} ms; the job takes 1/{decoded / per_image:.0f} "
            f"(bar: 1/80)"
        )
        for times, run in runs.items():
            print(
                f"{times * len(paths):6} paths {run['wall']:7.1f} s {run['cpu']:7.1f} s of CPU "
                f"{run['memory'] / 1e6:6.0f} MB peak"
            )
        growth = many["memory"] / runs[1]["memory"]
        print(f"memory at {TIMES}x the paths: {growth:.2f}x (bar: 1.15, and 600 MB)")
        half, whole = (runs[n]["wall"] - runs[1]["wall"] for n in (TIMES // 2, TIMES))
        print(f"time beyond the first {len(paths)}: {whole / half:.2f}x for 2.25x the paths")
        # Shards enough to share out evenly.
        decoding = ("--max_side=1000", "--min_shards=24")
        sample = listed(paths, labels, folder / "decode", 1)
        one = convert(sample, folder, "one", *decoding)
        workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
        two = convert(sample, folder, "two", *decoding, *workers)
        print(
            f"decoding path, {len(paths)} images: one process {one['wall']:.1f} s, two "
            f"{two['wall']:.1f} s, {one['wall'] / two['wall']:.2f}x (bar: 1.6)"
        )


def listed(paths: list[str], labels: str, folder: Path, times: int) -> Path:
    """A folder of links to the images, each `times` times, and labels.csv of the same names."""
    folder.mkdir()
    stems = {Path(path).stem for path in paths}
    with open(labels, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row and row[0] in stems]
    with (folder / "labels.csv").open("w") as out:
        writer = csv.writer(out)
        writer.writerow(["ImageId", "EncodedPixels"])
        for number in range(times):
            for path in paths:
                (folder / f"{number}_{Path(path).name}").symlink_to(Path(path).resolve())
            writer.writerows([f"{number}_{row[0]}", row[1]] for row in rows)
    return folder


def convert(images: Path, folder: Path, name: str, *options: str) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak bytes of one whole job."""
    command = [sys.executable, "-m", "beam.convert", f"--images={images}/*.dcm"]
    command += [f"--labels={images}/labels.csv", f"--output={folder}/{name}/1.0.0"]
    command += [f"--deidentify_key_file={folder}/key", "--runner=DirectRunner", *options]
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    wall = time.monotonic() - started
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * 1024}


def python(code: str, folder: Path) -> float:
    command = [sys.executable, "-c", code, str(folder / "paths.txt"), str(folder / "records")]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    main()
