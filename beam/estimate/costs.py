"""What an image costs, measured once: a header -> core-seconds of its conversion, bytes of its
record, core-seconds of a trainer's input to read it.

The numbers are those of `python benchmarks/costs.py` (phantoms of 1024 px, CPU time of one of two
shared cores of an Intel Xeon, 2026-11-21), but where another source is named. Elsewhere run it
again, or give an estimate what a small conversion took: --core_seconds and --record_kb.
"""

from lake.scan import Coding, Header, Storage
from lake.sources.pixels import shrunk_size

START_S = 2.7  # of a process: Python, Beam, the pipeline
IMAGE_S = 0.6e-3  # its header, the plan, its record
MEGABYTE_S = 4e-3  # of a file's 10^6 bytes: read, looked through, summed, written, masked
# Seconds a megapixel of the source, to grey levels.
DECODE_S = {
    "jpeg": 0.015,
    "jpeg-lossless": 0.045,
    "jpeg-ls": 0.109,
    "jpeg-2000": 0.138,
    "jpeg-2000-lossy": 0.026,
    "rle": 0.080,
    "png": 0.006,
    "metaimage": 0.004,
    "uncompressed": 0.004,
}
WINDOW_S = 0.010  # a megapixel of the source that becomes 8 bits
SHRINK_S, CLAHE_S, LUNGS_S = 0.004, 0.080, 0.083  # the same
PNG_S = {8: 0.050, 16: 0.116}  # a megapixel of the record, by the lake's bits
# Bits a pixel of a record's PNG, by the lake's bits; noise takes most of them. Of codes that lose
# it (16: two real radiographs, 2.9 and 3.7; the phantoms at 1:20 take 8.4) and of all others.
SMOOTH_BITS, NOISY_BITS = {8: 3.2, 16: 3.7}, {8: 3.7, 16: 10.0}
SMOOTH = ("jpeg", "jpeg-2000-lossy")
CT_BITS = 6.9  # three slabs of LUNA16
# A lossless code of one channel has found already what a PNG can save: bytes of the PNG for each
# byte of the code.
PNG_OF_CODED = {"jpeg-lossless": 1.25, "jpeg-ls": 1.39, "jpeg-2000": 1.35, "rle": 0.94, "png": 1.0}
SHRUNK_BITS = 1.1  # times: a pixel of a smaller image has more to say (1.02 to 1.21)
# Beside the image: its fields; a megapixel of mask and its run lengths (SIIM-ACR's files).
FIELDS_BYTES, MASK_BYTES = 600, 2200
# Seconds a megapixel for a trainer's input to decode a record: JPEG, or PNG of 8 or 16 bits.
TRAINING_S = {"jpeg": 0.0030, 8: 0.0123, 16: 0.0190}


def convert_seconds(header: Header, coding: Coding, storage: Storage, kind: str) -> float:
    """Of one core, for one record."""
    seconds = IMAGE_S + MEGABYTE_S * coding.num_bytes / 1e6
    if coding.is_kept and kind == "dicom":
        return seconds
    source = header.height * header.width / 1e6
    seconds += DECODE_S[coding.name] * source
    if coding.is_kept:  # a PNG or JPEG file is read through once
        return seconds
    seconds += (CLAHE_S * storage.clahe + LUNGS_S * storage.lung_roi) * source
    seconds += WINDOW_S * source * (storage.bits == 8 < header.bits)
    stored = stored_megapixels(header, storage)
    return seconds + SHRINK_S * source * (stored < source) + PNG_S[storage.bits] * stored


def record_bytes(header: Header, coding: Coding, storage: Storage) -> float:
    source, stored = header.height * header.width / 1e6, stored_megapixels(header, storage)
    others = FIELDS_BYTES + MASK_BYTES * stored
    if coding.is_kept:
        return coding.num_bytes + others
    is_same = (header.bits > 8) == (storage.bits == 16) and not storage.clahe
    if coding.name in PNG_OF_CODED and coding.channels == 1 and is_same:
        bits = PNG_OF_CODED[coding.name] * coding.num_bytes * 8 / (source * 1e6)
    elif header.modality == "CT" and storage.bits == 16:
        bits = CT_BITS
    else:
        bits = (SMOOTH_BITS if coding.name in SMOOTH else NOISY_BITS)[storage.bits]
    bits *= SHRUNK_BITS if stored < source else 1
    return bits * stored * 1e6 / 8 + others


def training_seconds(header: Header, coding: Coding, storage: Storage) -> float:
    """Of one core, for a trainer's input to read one record."""
    is_jpeg = coding.is_kept and coding.name == "jpeg"
    return TRAINING_S["jpeg" if is_jpeg else storage.bits] * stored_megapixels(header, storage)


def stored_megapixels(header: Header, storage: Storage) -> float:
    height, width = shrunk_size(header.height, header.width, storage.max_side)
    return height * width / 1e6
