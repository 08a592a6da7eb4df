"""The values of every DICOM file that is read here are those of a second reader, which has not the
decoder that the converter uses for the file's transfer syntax."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from makers import easily_misread, second_readers
from makers.dicom import PACKAGED
from makers.marks import exhaustive
from PIL import Image
from pydicom import uid

from lake import Reject
from lake.scan import Storage
from lake.sources.codecs.decoders import LOSSLESS_JPEG, LOSSY_JPEG
from lake.sources.dicom import dicom

# Percentiles need no curve of the file's, so that the values are those before its VOI LUT.
STORAGE = Storage(16, None, "percentile")
# Files of which another reader makes something else, and why.
RLE_COLOURS = "GDCM takes the two bytes of a run-length colour for two pixels; DCMTK does not"
CUT = "GDCM refuses a file whose last frames are missing; its first are whole"
ONE_BIT_RUNS = "GDCM reads no run-length code of single bits; test_decoders.py does"
DIFFERENCES = {
    "emri_small_jpeg_2k_lossless_too_short.dcm": CUT,
    "2_emri_small_jpeg_2k_lossless_too_short.dcm": CUT,
    "RG3_JPLY": "GDCM cuts eight pixels of 1024, to which a lossy code swings, to 10 bits: 0",
    "liver_rle.dcm": ONE_BIT_RUNS,
    "liver_nonbyte_aligned_rle.dcm": ONE_BIT_RUNS,
    "SC_rgb_rle_16bit.dcm": RLE_COLOURS,
    "SC_rgb_rle_16bit_2frame.dcm": RLE_COLOURS,
    "ExpectedOutput.dcm": "GDCM cannot read this JPEG 2000, and no other decoder is at hand",
}
BITS_ALLOCATED = (1, 8, 16)  # that a record has room for; others may read 12 and 32
FAILURE, LOST = "the second reader fails", "lost"
# Debian's tools for a transfer syntax: each writes the file uncompressed.
DCMTK = {
    **dict.fromkeys((*LOSSY_JPEG, *LOSSLESS_JPEG), ("dcmdjpeg",)),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, ("dcmdjpls",)),
    uid.RLELossless: ("dcmdrle",),
}


def values(path: Path) -> dict[int, np.ndarray]:
    """Return {frame: its values [H, W]} of the first two frames of a file and the last; raise
    Reject."""
    data = path.read_bytes()
    headers = dicom.read_headers(io.BytesIO(data), path.name, len(data), "name", "each")
    result = {}
    for header in {header.frame: header for header in (*headers[:2], headers[-1])}.values():
        scan = dicom.read_scan(data, header, STORAGE)
        slope, intercept = scan.rescale
        result[header.frame] = np.asarray(Image.open(io.BytesIO(scan.image))) * slope + intercept
    return result


def difference(path: Path, second_read=second_readers.read) -> str | None:
    """Return how the converter's values differ from a second reader's, "" where they do not; None
    where neither reads the file."""
    try:
        reading, failure = second_read(str(path)), ""
    except Exception as error:  # of whichever kind that reader has
        reading, failure = None, f"{FAILURE}: {error}"[:200]
    try:
        frames = values(path)
    except Reject as reject:
        is_kept_out = failure or _bits_allocated(path) not in BITS_ALLOCATED
        return None if is_kept_out else f"{LOST}: {reject}"
    if failure:
        return failure
    for number, frame in frames.items():
        theirs = reading.values[number]
        if frame.shape != theirs.shape:
            return f"frame {number} has the shape {frame.shape}, theirs {theirs.shape}"
        is_padding = (theirs >= reading.padding[0]) & (theirs <= reading.padding[1])
        apart = np.abs(frame - theirs)[~is_padding].max(initial=0)
        if apart > reading.levels_apart + 1e-6 * np.abs(theirs).max():
            return f"frame {number} differs by up to {apart:g}"
    return ""


def _bits_allocated(path: Path) -> int:
    return pydicom.dcmread(path, force=True, specific_tags=["BitsAllocated"]).BitsAllocated


def assert_alike(folder: Path, num_read: int) -> None:
    texts = {path.name: difference(path) for path in sorted(folder.iterdir()) if path.is_file()}
    assert {name: text for name, text in texts.items() if text and name not in DIFFERENCES} == {}
    # None of the differences is gone.
    assert all(texts[name] for name in DIFFERENCES.keys() & texts.keys())
    assert sum(text is not None for text in texts.values()) >= num_read


def test_few_differences_are_explained():
    assert len(DIFFERENCES) <= 10


def test_pydicoms_files_have_the_values_of_a_second_reader():
    assert_alike(PACKAGED, 50)


@exhaustive  # test_dicom.py has their values
def test_odd_files_have_the_values_of_a_second_reader(real_data):
    assert_alike(real_data / "odd_dicom", 80)


def test_files_that_are_easily_misread_have_their_values_or_are_rejects(tmp_path):
    wrong, num_read = {}, 0
    for name, (data, expected) in easily_misread.files().items():
        path = tmp_path / "a.dcm"
        path.write_bytes(data)
        try:
            actual = values(path)[0]
        except Reject:
            continue
        num_read += 1
        if expected is None:
            continue
        if actual.shape != expected.shape or np.abs(actual - expected).max() > 1e-3:
            wrong[name] = f"{np.mean(actual != expected):.0%}"
    assert wrong == {} and num_read >= 60


def by_dcmtk(path: str) -> second_readers.Reading:
    """Return the frames of a file that one of DCMTK's tools has written uncompressed."""
    dataset = pydicom.dcmread(path)
    syntax, plain = dataset.file_meta.TransferSyntaxUID, f"{path}.plain"
    tool, *options = DCMTK[syntax]
    subprocess.run([tool, *options, path, plain], check=True, capture_output=True)
    coded, dataset = dataset, pydicom.dcmread(plain)
    is_lossy = syntax in (*LOSSY_JPEG, uid.JPEGLSNearLossless)
    is_colour = dataset.SamplesPerPixel == 3
    reading = second_readers.by_numpy(plain, dataset, 2.0 * is_lossy + 2.0 * is_colour)
    return second_readers.without_padding(reading, coded)


@pytest.mark.services
def test_compressed_files_have_the_values_of_dcmtk(tmp_path):
    absent = [tool for tool, *_ in DCMTK.values() if shutil.which(tool) is None]
    if absent:
        pytest.skip(f"no {absent[0]} here; make test-services installs dcmtk")
    files = {f"{name}.dcm": data for name, (data, _) in easily_misread.files().items()}
    files |= {path.name: path.read_bytes() for path in PACKAGED.glob("*.dcm")}
    counts, wrong, refused = {}, {}, []
    for name, data in files.items():
        path = tmp_path / name.replace("/", "_")
        path.write_bytes(data)
        meta = pydicom.dcmread(path, force=True, specific_tags=[]).file_meta
        syntax = meta.get("TransferSyntaxUID")
        text = difference(path, by_dcmtk) if syntax in DCMTK else None
        if text and text.startswith((FAILURE, LOST)):
            refused.append(name)
        elif text is not None:
            counts[DCMTK[syntax][0]] = counts.get(DCMTK[syntax][0], 0) + 1
            wrong |= {name: text} if text else {}
    assert wrong == {} and len(refused) < 12, (wrong, refused)
    assert counts.keys() == {tool for tool, *_ in DCMTK.values()} and min(counts.values()) >= 5
