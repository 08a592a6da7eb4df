"""What an image costs: a header -> core-seconds of its conversion, bytes of its record.

The numbers were measured with `python benchmarks/costs.py` (phantoms of 1024 px, CPU time of one of
two shared cores of an Intel Xeon, 2026-11-21), unless another source is named. On another machine
run it again, or give an estimate what a small conversion took: --core_seconds and --record_kb.

The time of a record is a sum over what the conversion does to it. A file whose code a lake keeps is
only read and copied; any other is decoded, perhaps windowed, equalised and shrunk, and encoded as
PNG. Each of these grows with the pixels that it touches: those of the source before shrinking,
those of the record after it. The bytes of a record are those of the kept code, else a typical
number of bits per pixel; where the file's code is lossless already, its own size tells the noise.
"""

from lake.scan import Coding, Header, Storage
from lake.sources.pixels import shrunk_size

# --- seconds of one core ---
START_S = 2.7  # per process: Python, Beam, the pipeline
IMAGE_S = 0.6e-3  # per image: its header, the plan, its record
MEGABYTE_S = 4e-3  # per 10^6 bytes of a file: read, parsed, hashed, written
# Per megapixel of the source, to grey levels. JPEG and JPEG-LS have another decoder since: what was
# measured, by its share of the time of the one before (0.34, 0.22, 0.24; 2026-11-30). Since then
# lossless JPEGs are checked bit by bit, and run lengths expanded in C (on 2.25 megapixels).
DECODE_S = {
    "jpeg": 0.005,
    "jpeg-lossless": 0.020,
    "jpeg-ls": 0.026,
    "jpeg-2000": 0.138,
    "jpeg-2000-lossy": 0.026,
    "rle": 0.006,
    **dict.fromkeys(("png", "tiff", "gif"), 0.006),
    "bmp": 0.004,
    "metaimage": 0.004,
    "uncompressed": 0.004,
}
WINDOW_S = 0.010  # per megapixel of the source, where more bits become 8
# Per megapixel of the source. CLAHE has another algorithm since: 0.080, times its share of 0.21.
SHRINK_S, CLAHE_S, LUNGS_S = 0.004, 0.017, 0.083
PNG_S = {8: 0.050, 16: 0.116}  # per megapixel of the record, by the lake's bits

# --- bytes ---
# Bits per pixel of a record's PNG, by the lake's bits; noise takes most of them. SMOOTH_BITS is
# for lossy codes, which lose it (16: two real radiographs, 2.9 and 3.7; the phantoms at 1:20 take
# 8.4), NOISY_BITS for all others.
SMOOTH_BITS, NOISY_BITS = {8: 3.2, 16: 3.7}, {8: 3.7, 16: 10.0}
SMOOTH = ("jpeg", "jpeg-2000-lossy")
CT_BITS = 6.9  # three slabs of LUNA16
# Bytes of the PNG per byte of a lossless code of one channel.
PNG_PER_CODE = {"jpeg-lossless": 1.25, "jpeg-ls": 1.39, "jpeg-2000": 1.35, "rle": 0.94, "png": 1.0}
SHRUNK_BITS = 1.1  # factor: neighbours in a smaller image differ more (measured 1.02 to 1.21)
# Beside the image: the fields of a record; per megapixel its mask and run lengths (SIIM-ACR's).
FIELDS_BYTES, MASK_BYTES = 600, 2200


def convert_seconds(header: Header, coding: Coding, storage: Storage, source: str) -> float:
    """Return the seconds of one core that one record takes."""
    seconds = IMAGE_S + MEGABYTE_S * coding.num_bytes / 1e6
    if coding.is_kept and source == "dicom":
        return seconds
    megapixels = header.height * header.width / 1e6
    seconds += DECODE_S[coding.name] * megapixels
    if coding.is_kept:  # a PNG or JPEG file is decoded once to check it
        return seconds
    seconds += (CLAHE_S * storage.clahe + LUNGS_S * storage.lung_roi) * megapixels
    seconds += WINDOW_S * megapixels * (storage.bits == 8 < header.bits)
    lake_mp = stored_megapixels(header, storage)
    return seconds + SHRINK_S * megapixels * (lake_mp < megapixels) + PNG_S[storage.bits] * lake_mp


def record_bytes(header: Header, coding: Coding, storage: Storage) -> float:
    """Return the estimated bytes of one record."""
    megapixels, lake_mp = header.height * header.width / 1e6, stored_megapixels(header, storage)
    other_bytes = FIELDS_BYTES + MASK_BYTES * lake_mp
    if coding.is_kept:
        return coding.num_bytes + other_bytes
    has_same_bits = (header.bits > 8) == (storage.bits == 16) and not storage.clahe
    if coding.name in PNG_PER_CODE and coding.channels == 1 and has_same_bits:
        bits_per_pixel = PNG_PER_CODE[coding.name] * coding.num_bytes * 8 / (megapixels * 1e6)
    elif header.modality == "CT" and storage.bits == 16:
        bits_per_pixel = CT_BITS
    else:
        bits_per_pixel = (SMOOTH_BITS if coding.name in SMOOTH else NOISY_BITS)[storage.bits]
    bits_per_pixel *= SHRUNK_BITS if lake_mp < megapixels else 1
    return bits_per_pixel * lake_mp * 1e6 / 8 + other_bytes


def stored_megapixels(header: Header, storage: Storage) -> float:
    """Return the megapixels of an image as the lake stores it."""
    height, width = shrunk_size(header.height, header.width, storage.max_side)
    return height * width / 1e6
