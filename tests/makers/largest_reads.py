"""The largest images that are read, each in a process of its own, and what they cost.

python tests/makers/largest_reads.py KIND [SIDE] makes a file of SIDE x SIDE pixels, 10,000 unless
given, reads it and prints its pixels, CPU seconds, peak bytes of memory and what became of it.
"""

import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from makers import dicom as dicom_maker  # noqa: E402

from lake import Reject  # noqa: E402
from lake.scan import Storage  # noqa: E402
from lake.sources import reader  # noqa: E402

STORAGES = {"clahe": Storage(16, None, clahe=True), "percentile": Storage(16, None, "percentile")}
KINDS = ("noise", "clahe", "percentile", "voi-lut", "sigmoid", "padding", "colour", "jpeg-2000")
KINDS += ("png", "png-colour")


class Cost(NamedTuple):
    """Says what reading one image took."""

    pixels: int
    cpu_s: float
    peak_bytes: int
    outcome: str  # the encoding of the record, or the reason of the reject


def noise(side: int, channels: int = 0) -> np.ndarray:
    """Return pixels that no code makes much smaller: a slope, and noise of ten bits."""
    shape = (side, side, channels) if channels else (side, side)
    pixels = np.random.default_rng(0).integers(0, 2**10, shape, np.uint16)
    pixels += (np.arange(side) * 6 % 2**15).astype(np.uint16).reshape(-1, *[1] * (len(shape) - 1))
    return pixels


def content(kind: str, side: int) -> bytes:
    """Return the file of a kind."""
    if kind.startswith("png"):
        import imagecodecs

        pixels = noise(side) if kind == "png" else (noise(side, 3) >> 2).astype(np.uint8)
        return imagecodecs.png_encode(pixels, level=1)
    if kind == "colour":
        return dicom_maker.make(noise(side, 3))
    if kind == "jpeg-2000":
        import imagecodecs
        from pydicom.encaps import encapsulate
        from pydicom.uid import JPEG2000Lossless

        frame = imagecodecs.jpeg2k_encode(noise(side), level=0, reversible=True, codecformat="j2k")
        size = {"Rows": side, "Columns": side, "PixelData": encapsulate([frame])}
        return dicom_maker.make(np.zeros((1, 1), np.uint16), JPEG2000Lossless, **size)
    attributes = {"WindowCenter": 16_000, "WindowWidth": 20_000}
    if kind == "voi-lut":
        from pydicom.sequence import Sequence

        outputs = 2 * np.arange(2**15 - 1)[::-1]
        attributes = {"VOILUTSequence": Sequence([dicom_maker.table(outputs, 0, 16)])}
    elif kind == "sigmoid":
        attributes["VOILUTFunction"] = "SIGMOID"
    elif kind == "padding":
        attributes["PixelPaddingValue"] = 500
    return dicom_maker.make(noise(side), **attributes)


def measure(kind: str, path: Path) -> Cost:
    """Read the file of a kind and return what that cost this process, from its start on."""
    storage, data = STORAGES.get(kind, Storage(16, None)), path.read_bytes()
    source, start, pixels = "images" if kind.startswith("png") else "dicom", time.process_time(), 0
    try:
        file = io.BytesIO(data)
        [header] = reader.read_headers(source, file, str(path), len(data), "name", "reject")
        pixels = header.height * header.width

        class Files:
            """Gives the bytes that were read."""

            def read(self, _):
                return data

        outcome = reader.read_scan(source, Files(), header, storage).encoding
    except Reject as reject:
        outcome = reject.reason
    # Not by getrusage, in which a process has what its parent had before it.
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    peak = int(status["VmHWM"].split()[0]) * 1024
    return Cost(pixels, time.process_time() - start, peak - len(data), outcome)


def run(kind: str, side: int, folder: Path) -> Cost:
    """Return the cost of reading an image of a kind, measured in a process of its own."""
    path = folder / f"{kind}.{'png' if kind.startswith('png') else 'dcm'}"
    path.write_bytes(content(kind, side))
    command = [sys.executable, __file__, kind, str(side), str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    path.unlink()
    return Cost(*json.loads(output))


def main(kind: str, side: str = "10000", path: str = "") -> None:
    if path:
        Image.MAX_IMAGE_PIXELS = None
        print(json.dumps(measure(kind, Path(path))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for one in KINDS if kind == "all" else [kind]:
            cost = run(one, int(side), Path(folder))
            bound = 250 + 30 * cost.pixels / 1e6
            print(
                f"{one:10} {cost.pixels / 1e6:6.1f} Mpx {cost.cpu_s:6.1f} s "
                f"{cost.peak_bytes / 1e6:6.0f} MB (bound {bound:.0f}) {cost.outcome}",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
