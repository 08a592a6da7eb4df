"""Where the frames of a file's pixel data are: without their last delimiter, and of another kind
than the transfer syntax says."""

import io

import imagecodecs
import numpy as np
import pydicom
import pytest
from makers.codestreams import CODES, NATIVE, encapsulated, file_of
from makers.dicom import headers, jpeg, make
from PIL import Image
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from lake import Reject
from lake.scan import Storage
from lake.sources.dicom import dicom

END = b"\xfe\xff\xdd\xe0\0\0\0\0"  # Sequence Delimitation Item
PADDING = b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0\0\0"  # Data Set Trailing Padding
DEEP, WIDE = Storage(16, None), Storage(8, None)
PIXELS = np.random.default_rng(0).integers(0, 4096, (36, 40)).astype(np.uint16)
GREYS = np.random.default_rng(0).integers(0, 256, (36, 40)).astype(np.uint8)


def values_of(data: bytes, frame: int = 0, storage: Storage = DEEP) -> np.ndarray:
    header = headers(data, "each" if frame else "first")[frame]
    scan = dicom.read_scan(data, header, storage)
    slope, intercept = scan.rescale
    return np.asarray(Image.open(io.BytesIO(scan.image))) * slope + intercept


def message_of(data: bytes, storage: Storage = DEEP) -> str:
    with pytest.raises(Reject) as caught:
        values_of(data, storage=storage)
    assert caught.value.reason == "undecodable"
    return caught.value.message


@pytest.mark.parametrize("code", [*CODES, "rle", "htj2k"])
def test_the_last_delimiter_may_be_missing_but_no_part_of_a_fragment(code):
    data = file_of(PIXELS, code)
    assert data.endswith(END)
    for end in (b"", END[:5], bytes(12), PADDING, END + PADDING):
        assert (values_of(data[:-8] + end) == PIXELS).all(), end
    for cut in (9, 40):
        assert "the data ends inside a fragment" in message_of(data[:-cut])
    assert "do not end in a delimiter" in message_of(data[:-8] + b"\x08\x00\x18\x00UI\x02\x001\0")


@pytest.mark.parametrize("storage", [DEEP, WIDE])
def test_a_jpeg_without_delimiter_is_read_whether_it_is_kept_or_decoded(storage):
    data = make(GREYS, JPEGBaseline8Bit)
    assert (values_of(data[:-8], storage=storage) == values_of(data, storage=storage)).all()
    assert "inside a fragment" in message_of(data[:-20], storage)


def test_each_of_many_frames_is_read_without_the_last_delimiter():
    stack = np.stack([GREYS, GREYS[::-1], 255 - GREYS])
    for table in (True, False):
        dataset = pydicom.dcmread(io.BytesIO(make(stack, frames=3)))
        dataset.compress(RLELossless, generate_instance_uid=False, encapsulate_ext=not table)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        for frame, pixels in enumerate(stack):
            assert (values_of(buffer.getvalue()[:-8], frame) == pixels).all()


def with_syntax(data: bytes, syntax: str) -> bytes:
    """The file with another transfer syntax in its file meta information, else unchanged."""
    meta = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).file_meta
    start = 144 + meta.FileMetaInformationGroupLength
    meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(buffer, meta)
    return data[:132] + buffer.getvalue() + data[start:]


@pytest.mark.parametrize("native", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_encapsulated_frames_in_a_native_transfer_syntax_are_read(native):
    for code in (*CODES, "rle", "htj2k"):
        assert (values_of(with_syntax(file_of(PIXELS, code), native)) == PIXELS).all(), code
    for storage in (DEEP, WIDE):
        data = make(GREYS, JPEGBaseline8Bit)
        decoded = np.asarray(Image.open(io.BytesIO(jpeg(GREYS))))
        assert (values_of(with_syntax(data, native), storage=storage) == decoded).all()
    nothing = encapsulated(GREYS, JPEGBaseline8Bit, [b"no codestream at all"])
    message = message_of(with_syntax(nothing, native))
    assert f"the transfer syntax says {native.name}, the pixel data are encapsulated" in message


@pytest.mark.parametrize("storage", [DEEP, WIDE])
@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLosslessSV1, JPEG2000, RLELossless])
def test_native_pixels_in_a_compressed_transfer_syntax_are_read(syntax, storage):
    for code in ("native", "implicit"):
        assert (values_of(with_syntax(file_of(PIXELS, code), syntax)) == PIXELS).all(), code
    odd = GREYS[:35, :39]
    assert (values_of(with_syntax(make(odd), syntax), storage=storage) == odd).all()
    for pixels in (GREYS[:20], np.tile(GREYS, (2, 1))):  # fewer and more than the header says
        wrong = make(GREYS, PixelData=pixels.tobytes())
        message = message_of(with_syntax(wrong, syntax), storage)
        assert f"the transfer syntax says {syntax.name}, the pixel data are native" in message


@pytest.mark.parametrize("code", [*CODES, "rle", "htj2k"])
def test_a_frame_says_itself_which_code_it_is_of(code):
    data = file_of(PIXELS, code)
    for syntax in (
        *(JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless),
        RLELossless,
    ):
        assert (values_of(with_syntax(data, syntax)) == PIXELS).all(), (code, syntax.name)


def test_other_codes_are_not_kept_as_baseline_jpegs():
    frame = imagecodecs.jpeg2k_encode(GREYS, codecformat="j2k", reversible=True)
    data = encapsulated(GREYS, JPEGBaseline8Bit, [frame])
    assert (values_of(data, storage=WIDE) == GREYS).all()


@pytest.mark.parametrize("name", NATIVE)
def test_deep_ybr_is_grey_by_its_luma(name):
    """pydicom's conversion to RGB holds values to 0 ... 255, whatever bits they have."""
    colours = np.stack([PIXELS, PIXELS[::-1], 4095 - PIXELS], -1)
    attributes = {"BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": "YBR_FULL"}
    assert (values_of(make(colours, NATIVE[name], **attributes)) == PIXELS).all()
