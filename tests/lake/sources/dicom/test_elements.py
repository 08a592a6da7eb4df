"""The elements of DICOM files as writers leave them: wrong representations, lengths that look like
one, commas, words, missing delimiters and elements."""

import io
import itertools
import struct

import numpy as np
import pydicom
import pytest
from makers.dicom import headers, make, table
from makers.marks import exhaustive
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lake import Reject
from lake.scan import Scan, Storage
from lake.sources.dicom import dicom
from lake.sources.dicom.elements import REPRESENTATIONS

DEEP, WIDE = Storage(bits=16, max_side=None), Storage(bits=8, max_side=None)
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
PIXELS = (np.add.outer(np.arange(16), np.arange(20)) * 100).astype(np.uint16)
WHOLE = {
    "BitsStored": 12,
    "HighBit": 11,
    "WindowCenter": "2000",
    "WindowWidth": "3500",
    "RescaleSlope": "1",
    "RescaleIntercept": "-7",
    "PixelSpacing": ["0.143", "0.143"],
    "ImagePositionPatient": ["1", "2", "3"],
    "NumberOfFrames": "1",
}


def read(data: bytes, storage: Storage = DEEP) -> Scan:
    return dicom.read_scan(data, headers(data)[0], storage)


def levels(scan: Scan) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(scan.image)))


def meaning(data: bytes) -> tuple | None:
    """What a record would hold, None for a reject."""
    try:
        scan = read(data)
    except Reject:
        return None
    return levels(scan).tobytes(), scan.window, scan.rescale, scan.pixel_spacing_mm, scan.slice_mm


def wrong_readings(syntax: str, tags: tuple[int, ...]) -> list[tuple]:
    """Return (tag, representation) of the elements that are read as something else, in silence."""
    data = make(PIXELS, syntax, **WHOLE)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    expected, wrong = meaning(data), []
    for tag, letters in itertools.product(tags, sorted(REPRESENTATIONS | {b"XX", b"??", b"\0\0"})):
        start = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        place = data.index(start, 132) + 4
        changed = data[:place] + letters + data[place + 2 :]
        if meaning(changed) not in (expected, None):
            wrong.append((hex(tag), letters))
    return wrong


SIZES = (0x00280002, 0x00280010, 0x00280101)
OTHERS = (0x00280004, 0x00280008, 0x00280011, 0x00280100, 0x00280102, 0x00280103, 0x7FE00010)
VIEWS = (0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00280030, 0x00200032)


def test_a_wrong_representation_never_makes_another_image():
    assert wrong_readings(ExplicitVRLittleEndian, (*SIZES, VIEWS[0])) == []


@exhaustive
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_no_wrong_representation_does(syntax):
    assert wrong_readings(syntax, (*SIZES, *OTHERS, *VIEWS)) == []


@pytest.mark.parametrize("letters", [b"UL", b"FD", b"SS", b"OB", b"UN", b"XX"])
def test_samples_per_pixel_of_another_representation_are_read(letters):
    data = make(PIXELS, **WHOLE)
    place = data.index(b"\x28\0\2\0US") + 4
    assert meaning(data[:place] + letters + data[place + 2 :]) == meaning(data)


@pytest.mark.parametrize("length", [0x5050, 0x5A48, 0x5344, 0x534C, 0x5443, 0x4E50, 0x4C46])
@pytest.mark.parametrize("syntax", NATIVE)
def test_lengths_that_look_like_a_representation(length, syntax):
    """PP, HZ; and DS, LS, CT, PN, FL."""
    words = length // 2
    columns = next(n for n in range(30, 3000) if words % n == 0)
    image = (np.arange(words) % 4096).astype(np.uint16).reshape(-1, columns)
    data = make(image, syntax, BitsStored=12, HighBit=11)
    assert (levels(read(data)) == image).all()
    dataset = pydicom.dcmread(io.BytesIO(make(PIXELS, syntax)))
    dataset.private_block(0x0009, "TEST", create=True).add_new(1, "UN", bytes(range(256)) * 91)
    dataset[0x00091001].value = dataset[0x00091001].value[:length].ljust(length, b"\1")
    dataset.save_as(buffer := io.BytesIO())
    assert (levels(read(buffer.getvalue())) == PIXELS).all()


@exhaustive
def test_all_16_bit_lengths_that_are_letters():
    checked = 0
    for first, second in itertools.product(b"BDFHJLNPRTVXZ", range(ord("A"), ord("Z") + 1)):
        words = (first | second << 8) // 2
        columns = max(n for n in range(1, 300) if words % n == 0)
        image = (np.arange(words) % 4096).astype(np.uint16).reshape(-1, columns)
        data = make(image, ImplicitVRLittleEndian, BitsStored=12, HighBit=11)
        assert (levels(read(data)) == image).all(), (chr(first), chr(second))
        checked += 1
    assert checked == 13 * 26


def implicit_element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


@pytest.mark.parametrize("length", [0x5344, 0x5050, 0x544C])
def test_one_implicit_element_in_an_explicit_data_set(length):
    """DS, PP, LT, before the pixels and as the pixels."""
    data = make(PIXELS, **WHOLE)
    place = data.index(b"\x20\0\x32\0DS")
    value = np.random.default_rng(0).bytes(length)
    private = implicit_element(0x00190010, b"TEST") + implicit_element(0x00191001, value)
    assert meaning(data[:place] + private + data[place:]) == meaning(data)
    place = data.index(b"\xe0\x7f\x10\0OW")
    words = length // 2
    pixels = (np.arange(words) % 4096).astype("<u2")
    changed = data[:place].replace(
        b"\x28\0\x10\0US\2\0" + struct.pack("<H", 16), b"\x28\0\x10\0US\2\0\1\0"
    )
    changed = changed.replace(
        b"\x28\0\x11\0US\2\0" + struct.pack("<H", 20),
        b"\x28\0\x11\0US\2\0" + struct.pack("<H", words),
    )
    changed += implicit_element(0x7FE00010, pixels.tobytes())
    assert (levels(read(changed)) == pixels).all()


def test_explicit_elements_under_the_name_of_implicit_ones_and_the_other_way_round():
    for syntax, named in itertools.permutations(NATIVE[:2]):
        data, names = make(PIXELS, syntax, **WHOLE), (syntax.encode(), named.encode())
        old, new = (name + b"\0" * (len(name) % 2) for name in names)
        length = struct.unpack_from("<L", data, 140)[0]
        meta = data[144 : 144 + length].replace(
            b"UI" + struct.pack("<H", len(old)) + old, b"UI" + struct.pack("<H", len(new)) + new
        )
        assert meaning(data[:144] + meta + data[144 + length :]) == meaning(data)


def with_text(data: bytes, tag: int, vr: str, text: str) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    content = text.encode() + b" " * (len(text) % 2)
    dataset._dict[Tag(tag)] = RawDataElement(Tag(tag), vr, len(content), content, 0, False, True)
    dataset.save_as(buffer := io.BytesIO())
    return buffer.getvalue()


def test_a_decimal_comma_is_a_point():
    data = make(PIXELS, **WHOLE)
    texts = {0x00281050: "2000,0", 0x00281051: "3500,0", 0x00281052: "-7,0", 0x00281053: "1,0"}
    texts |= {0x00280030: "0,143\\0,143", 0x00200032: "1,0\\2,0\\3,0", 0x00280008: "1,0"}
    changed = data
    for tag, text in texts.items():
        changed = with_text(changed, tag, "IS" if tag == 0x00280008 else "DS", text)
    assert meaning(changed) == meaning(data)
    assert read(with_text(data, 0x00281050, "DS", "2047,5")).window == pytest.approx(
        (304.5, 3803.5)
    )


ABSENT = {
    0x00281050: "WindowCenter",
    0x00281051: "WindowWidth",
    0x00281052: "RescaleIntercept",
    0x00281053: "RescaleSlope",
    0x00280030: "PixelSpacing",
    0x00200032: "ImagePositionPatient",
}


@pytest.mark.parametrize("word", ["none", "1,234.5", "1,2,3", "--1", "4o"])
def test_an_optional_element_that_is_no_number_is_as_if_absent(word):
    for tag, name in ABSENT.items():
        attributes = {key: value for key, value in WHOLE.items() if key != name}
        actual, expected = (
            meaning(with_text(make(PIXELS, **WHOLE), tag, "DS", word)),
            meaning(make(PIXELS, **attributes)),
        )
        assert actual[:-1] == expected[:-1], name
        assert np.array_equal(actual[-1], expected[-1], equal_nan=True), name


def test_hounsfield_units_without_a_readable_rescale_are_no_picture():
    data = with_text(make(PIXELS, Modality="CT", **WHOLE), 0x00281052, "DS", "minus")
    with pytest.raises(Reject, match="0028,1052.*is no number"):
        read(data)


@pytest.mark.parametrize(
    ("first", "second"), [(["0", "0"], "0.143"), (["0.2"], "0.143"), (["-1", "1"], "0.143")]
)
def test_the_next_sound_spacing_is_taken(first, second):
    data = make(PIXELS, PixelSpacing=first, ImagerPixelSpacing=[second, second])
    assert read(data).pixel_spacing_mm == (0.143, 0.143)
    data = make(PIXELS, PixelSpacing=first, NominalScannedPixelSpacing=[second, second])
    assert read(data).pixel_spacing_mm == (0.143, 0.143)
    assert read(make(PIXELS, PixelSpacing=first)).pixel_spacing_mm == (0, 0)
    data = make(PIXELS, PixelSpacing=["1", "1"], ImagerPixelSpacing=[second, second])
    assert read(with_text(data, 0x00280030, "DS", "n\\a")).pixel_spacing_mm == (0.143, 0.143)


def without(data: bytes, *names: str) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for name in names:
        delattr(dataset, name)
    dataset.save_as(buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "names",
    [
        ("PhotometricInterpretation",),
        ("SamplesPerPixel",),
        ("BitsStored",),
        ("HighBit",),
        ("BitsAllocated",),
        ("PixelRepresentation",),
        ("PhotometricInterpretation", "SamplesPerPixel", "PixelRepresentation", "HighBit"),
    ],
)
@pytest.mark.parametrize("syntax", NATIVE)
def test_an_absent_element_that_can_have_one_value_has_it(names, syntax):
    data = make(PIXELS, syntax, **WHOLE)
    assert meaning(without(data, *names)) == meaning(data)


def test_absent_elements_of_colours():
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    data = make(rgb)
    for name in ("PlanarConfiguration", "SamplesPerPixel", "PhotometricInterpretation", "HighBit"):
        assert meaning(without(data, name)) == meaning(data), name
    assert meaning(without(data, "SamplesPerPixel", "PhotometricInterpretation")) == meaning(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.compress("1.2.840.10008.1.2.5")
    dataset.save_as(buffer := io.BytesIO())
    with pytest.raises(Reject, match="Photometric Interpretation is missing"):
        read(without(buffer.getvalue(), "PhotometricInterpretation"))


def test_a_file_without_a_pixel_is_no_image():
    for changes in ({"PixelData": b""}, {"Rows": 0}):
        with pytest.raises(Reject) as caught:
            read(make(PIXELS, **changes))
        assert caught.value.reason == "no-pixels" and "leave it out" in caught.value.message


def test_the_first_file_meta_group_counts_whatever_it_says_of_its_length():
    data = make(PIXELS, **WHOLE)
    end = 144 + struct.unpack_from("<L", data, 140)[0]
    other = data[132:end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0")
    assert meaning(data[:end] + other + data[end:]) == meaning(data)
    for length in (0, 3, 2**31):
        assert meaning(data[:140] + struct.pack("<L", length) + data[144:]) == meaning(data)


@pytest.mark.parametrize("syntax", NATIVE)
def test_a_sequence_without_its_last_delimiter_ends_with_its_items(syntax):
    dataset = pydicom.dcmread(io.BytesIO(make(PIXELS, syntax, **WHOLE)))
    dataset.ModalityLUTSequence = [table(np.arange(4096), 0, 12)]
    dataset["ModalityLUTSequence"].is_undefined_length = True
    dataset.ModalityLUTSequence[0].is_undefined_length_sequence_item = True
    dataset.save_as(buffer := io.BytesIO())
    data = buffer.getvalue()
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    delimiter = struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0)
    item_end = struct.pack(order + "HHL", 0xFFFE, 0xE00D, 0)
    assert data.count(delimiter) == data.count(item_end) == 1
    assert meaning(data.replace(delimiter, b"")) == meaning(data)
    assert meaning(data.replace(item_end, b"")) == meaning(data)
