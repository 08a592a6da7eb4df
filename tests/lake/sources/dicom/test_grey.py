"""Tables, palettes and padding of DICOM files: whatever their writers say of them, one picture."""

import io
import itertools

import numpy as np
import pytest
from makers.dicom import headers, jpeg, make
from makers.marks import exhaustive
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from lake import Reject
from lake.scan import Scan, Storage
from lake.sources.dicom import dicom
from lake.sources.volumes import metaimage

DEEP, WIDE = Storage(bits=16, max_side=None), Storage(bits=8, max_side=None)
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
RAMP = np.clip(np.add.outer(np.arange(32), np.arange(48)) * 52, 0, 4095).astype(np.uint16)
CURVE = np.rint(4095 / (1 + np.exp(-8 * (np.arange(4096) / 4095 - 0.5)))).astype(np.uint16)


def read(data: bytes, storage: Storage = DEEP) -> Scan:
    return dicom.read_scan(data, headers(data)[0], storage)


def levels(scan: Scan) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(scan.image))).astype(int)


def view(scan: Scan) -> np.ndarray:
    """What a viewer of the record shows, 0 ... 1."""
    low, high = scan.window
    return np.clip((levels(scan) - low) / (high - low), 0, 1)


def lut(outputs, first: int, bits: int, vr: str = "US", data_vr: str = "OW", order="<") -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, vr, [len(outputs) % 2**16, first, bits])
    dtype = np.uint8 if outputs.dtype == np.uint8 else f"{order}u2"
    content = outputs.astype(dtype).tobytes()
    item.add_new(0x00283006, data_vr, content + bytes(len(content) % 2))
    return item


# --- Modality and VOI tables ---


@pytest.mark.parametrize("bits", [8, 10, 14, 16])
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("storage", [DEEP, WIDE, Storage(8, 20)])
def test_the_outputs_of_a_table_say_how_many_bits_they_have(bits, name, storage):
    attributes = {"BitsStored": 12, "HighBit": 11}
    expected = read(make(RAMP, **{name: [lut(CURVE, 0, 12)]}, **attributes), storage)
    actual = read(make(RAMP, **{name: [lut(CURVE, 0, bits)]}, **attributes), storage)
    assert (levels(actual) == levels(expected)).all() and actual.window == expected.window
    assert 0.45 < view(actual).mean() < 0.55
    assert storage.max_side or len(np.unique(levels(actual))) >= 70


@pytest.mark.parametrize(("vr", "first"), [("SS", -2048), ("US", 63488)])
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("syntax", NATIVE)
def test_the_first_input_of_a_table_has_the_sign_of_the_pixels(vr, first, name, syntax):
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    item = lut(CURVE, first, 12, vr, order=order)
    signed = (RAMP.astype(int) - 2048).astype(np.int16)
    data = make(signed, syntax, BitsStored=12, HighBit=11, **{name: [item]})
    assert (levels(read(data)) == CURVE[RAMP]).all()


def test_a_table_of_upper_words_keeps_its_first_input():
    outputs = (np.arange(2**15) * 2).astype(np.uint16)
    values = (RAMP.astype(int) * 8 + 2**15).astype(np.uint16)
    data = make(values, ModalityLUTSequence=[lut(outputs, 2**15, 16)])
    assert (levels(read(data)) == RAMP.astype(int) * 16).all()
    after_rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024, "BitsStored": 12, "HighBit": 11}
    data = make(RAMP, VOILUTSequence=[lut(CURVE, 2**16 - 1024, 12)], **after_rescale)
    assert (levels(read(data)) == CURVE[RAMP]).all()


@pytest.mark.parametrize("count", [255, 256, 21])
@pytest.mark.parametrize("data_vr", ["OW", "OB", "UN"])
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_tables_of_bytes_may_be_padded(count, data_vr, name):
    values, outputs = (RAMP % count).astype(np.uint8), (255 - np.arange(count)).astype(np.uint8)
    for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian):
        item = lut(outputs, 0, 8, data_vr=data_vr)
        if syntax == ExplicitVRBigEndian and data_vr != "OB":  # two bytes share a swapped word
            item[0x00283006].value = (
                np.frombuffer(item[0x00283006].value, "<u2").byteswap().tobytes()
            )
        assert (levels(read(make(values, syntax, **{name: [item]}))) == outputs[values]).all()


@pytest.mark.parametrize("count", [256, 4095, 4097, 0])
def test_a_table_of_another_length_than_it_says_is_refused(count):
    item = lut(CURVE, 0, 12)
    item.LUTDescriptor = [count, 0, 12]
    with pytest.raises(Reject, match="8192 bytes of a lookup table") as caught:
        read(make(RAMP, BitsStored=12, HighBit=11, VOILUTSequence=[item]))
    assert caught.value.reason == "undecodable"


ANGIOGRAPHY = ("12.1", "12.2", "12.3", "12.1.1", "12.2.1")


@pytest.mark.parametrize("suffix", ANGIOGRAPHY)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit])
def test_the_modality_table_of_angiography_is_not_for_display(suffix, syntax):
    image = np.add.outer(np.arange(64) * 2, np.arange(64) * 2).astype(np.uint8)
    outputs = np.linspace(80, 4022, 256).astype(np.uint16)
    attributes = {
        "ModalityLUTSequence": [lut(outputs, 0, 8)],
        "WindowCenter": 127,
        "WindowWidth": 255,
        "PixelIntensityRelationship": "LOG",
    }
    data = make(image, syntax, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{suffix}", **attributes)
    expected = np.clip((image - 126.5) / 254 + 0.5, 0, 1)
    assert np.abs(view(read(data, WIDE)) - expected).max() < 0.02
    other = make(image, syntax, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", **attributes)
    assert view(read(other, DEEP)).mean() > 0.9


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("sign", [0, 1])
def test_attributes_of_grey_images_change_no_colours(dtype, sign):
    rgb = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (8, 9, 3)).astype(dtype)
    attributes = {
        "ModalityLUTSequence": [lut(np.linspace(0, 65535, 256).astype(np.uint16), 0, 16)],
        "VOILUTSequence": [lut(CURVE, 0, 12)],
        "PixelRepresentation": sign,
        "RescaleSlope": -2,
        "RescaleIntercept": 9,
        "PixelPaddingValue": int(rgb[0, 0, 0]),
    }
    assert (levels(read(make(rgb, **attributes))) == levels(read(make(rgb)))).all()


# --- palettes ---


def palette(entries: list[np.ndarray], bits: int, order: str = "<", first: int = 0) -> dict:
    attributes = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, channel in zip(("Red", "Green", "Blue"), entries, strict=True):
        dtype = np.uint8 if channel.dtype == np.uint8 else f"{order}u2"
        content = channel.astype(dtype).tobytes()
        content += bytes(len(content) % 2)
        if dtype == np.uint8 and order == ">":
            content = np.frombuffer(content, "<u2").byteswap().tobytes()
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [len(channel), first, bits]
        attributes[f"{colour}PaletteColorLookupTableData"] = content
    return attributes


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("count", [256, 255, 21])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_palette_is_one_picture_in_every_order_and_length(syntax, count, dtype):
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    rng, bits = np.random.default_rng(count), 8 * np.dtype(dtype).itemsize
    entries = [rng.integers(0, 2**bits, count).astype(dtype) for _ in range(3)]
    values = (RAMP % count).astype(np.uint8)
    expected = np.stack(entries, -1)[values].astype(float) @ (0.299, 0.587, 0.114)
    scan = read(make(values, syntax, **palette(entries, bits, order)))
    assert np.abs(levels(scan) - expected).max() <= 1
    assert scan.window == (0, 2**bits - 1)
    frames = make(np.stack([values * 0, values]), syntax, frames=2, **palette(entries, bits, order))
    last = headers(frames, "each")[1]
    assert np.abs(levels(dicom.read_scan(frames, last, DEEP)) - expected).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_entries_of_8_bits_are_not_black_whatever_the_descriptor_says(dtype):
    entries = [np.arange(256).astype(dtype)] * 3
    values = (RAMP % 256).astype(np.uint8)
    for bits in (8, 16):
        scan = read(make(values, **palette(entries, bits)), WIDE)
        assert np.abs(levels(scan) - values).max() <= 1, bits


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_segmented_palettes(syntax):
    """A discrete segment of one entry, then a linear one to the highest."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    words = np.array([0, 1, 0, 1, 255, 65535]).astype(f"{order}u2").tobytes()
    attributes = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        attributes[f"Segmented{colour}PaletteColorLookupTableData"] = words
    values = (RAMP % 256).astype(np.uint8)
    scan = read(make(values, syntax, **attributes), WIDE)
    assert np.abs(levels(scan) - values).max() <= 1


# --- padding ---

TISSUE = (300 + np.add.outer(np.arange(64), np.arange(64)) * 400 // 126).astype(np.uint16)
IS_TISSUE = np.zeros(TISSUE.shape, bool)
IS_TISSUE[:, 20:-20] = True


def padded(padding: int, photometric: str, is_signed: bool, syntax=ExplicitVRLittleEndian, **more):
    """A file of tissue between stripes of padding, 12 bits stored, and its values [H, W]."""
    values = np.where(IS_TISSUE, TISSUE, padding).astype(np.int16 if is_signed else np.uint16)
    attributes = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": padding} | more
    return make(values, syntax, PhotometricInterpretation=photometric, **attributes), values


def assert_is_dark(scan: Scan, window: tuple[float, float] | None) -> None:
    assert (view(scan)[~IS_TISSUE] == 0).all()
    unit = view(scan)[IS_TISSUE]
    assert unit.min() == 0 and unit.max() == 1 and len(np.unique(unit)) > 60
    assert window is None or scan.window == window
    assert scan.padding_px == np.count_nonzero(~IS_TISSUE)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("padding", "is_signed"), [(0, False), (4095, False), (-2000, True)])
@pytest.mark.parametrize("syntax", NATIVE)
def test_padding_is_dark_and_no_part_of_a_window(photometric, padding, is_signed, syntax):
    data, _ = padded(padding, photometric, is_signed, syntax)
    low, high = int(TISSUE[IS_TISSUE].min()), int(TISSUE[IS_TISSUE].max())
    start = 2048 * is_signed
    levels_of_tissue = (low + start, high + start)
    if photometric == "MONOCHROME1":
        levels_of_tissue = (4095 - high - start, 4095 - low - start)
    assert_is_dark(read(data), levels_of_tissue)
    assert_is_dark(read(data, WIDE), (0, 255))
    for storage in (Storage(16, None, "percentile"), Storage(8, None, "percentile")):
        assert_is_dark(read(data, storage), None)
    small = read(data, Storage(16, 32))
    assert small.window == levels_of_tissue and (view(small)[:, :9] == 0).all()


@pytest.mark.parametrize("limit", [10, 250])
def test_a_range_of_padding(limit):
    data, values = padded(0, "MONOCHROME2", False)
    values = np.where(IS_TISSUE, TISSUE, np.arange(64)[:, None] % (limit + 1)).astype(np.uint16)
    for value, end in ((0, limit), (limit, 0)):
        attributes = {"PixelPaddingValue": value, "PixelPaddingRangeLimit": end}
        assert_is_dark(read(make(values, BitsStored=12, HighBit=11, **attributes)), (363, 636))


def test_padding_that_no_pixel_can_have_changes_nothing():
    plain = read(make(TISSUE, BitsStored=12, HighBit=11))
    for value in (5000, 65535):
        scan = read(make(TISSUE, BitsStored=12, HighBit=11, PixelPaddingValue=value))
        assert (scan.image, scan.window, scan.padding_px) == (plain.image, plain.window, 0)


@pytest.mark.parametrize("padding", [0, 255])
@pytest.mark.parametrize("window", ["default", "percentile"])
def test_padding_of_a_lossy_jpeg(padding, window):
    values = np.where(IS_TISSUE, TISSUE // 4, padding).astype(np.uint8)
    values = np.kron(values, np.ones((8, 8), np.uint8))
    data = make(
        values, JPEGBaseline8Bit, PixelData=encapsulate([jpeg(values)]), PixelPaddingValue=padding
    )
    scan = read(data, Storage(8, None, window))
    assert scan.encoding == ("jpeg-kept" if padding == 0 else "png")
    assert np.quantile(view(scan)[:, :140], 0.99) < 0.02
    if window == "percentile":
        assert 85 <= scan.window[0] <= 100 and 150 <= scan.window[1] <= 165


@exhaustive
@pytest.mark.parametrize("bits", range(9, 17))
def test_padding_of_every_depth_and_sign(bits):
    low, high = 2**bits // 4, 2**bits // 2
    tissue = (low + (high - low) * np.arange(64 * 64).reshape(64, 64) // 4096).astype(int)
    for is_signed, is_low in itertools.product((False, True), (False, True)):
        shift = 2 ** (bits - 1) * is_signed
        padding = 0 if is_low else 2**bits - 1
        values = (np.where(IS_TISSUE, tissue, padding) - shift).astype(
            np.int16 if is_signed else np.uint16
        )
        data = make(values, BitsStored=bits, HighBit=bits - 1, PixelPaddingValue=padding - shift)
        window = (tissue[IS_TISSUE].min(), tissue[IS_TISSUE].max())
        assert_is_dark(read(data), window)


@pytest.mark.parametrize(("padding", "dtype"), [(-32768, np.int16), (63536, np.uint16)])
@pytest.mark.parametrize("is_all", [False, True])
def test_padding_of_a_ct_is_air(padding, dtype, is_all, tmp_path):
    hu = np.full((16, 16), 40)
    hu[4:12, 4:12] = -700
    values = (hu + 1024).astype(dtype)
    values[: 16 if is_all else 3] = padding
    data = make(
        values,
        Modality="CT",
        SeriesInstanceUID="1.2",
        ImagePositionPatient=[0, 0, 1],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[0, 0],
        ImagerPixelSpacing=[0.7, 0.7],
        RescaleIntercept=-1024,
        RescaleSlope=1,
        PixelPaddingValue=padding,
    )
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    [header] = metaimage.read_headers(io.BytesIO(data), str(path), len(data))
    scan = metaimage.read_scan(str(path), header, DEEP)
    expected = np.where(values == padding, -1000, hu)
    assert (levels(scan) - 32768 == expected).all() and scan.pixel_spacing_mm == (0.7, 0.7)


# --- views that show nothing ---


@pytest.mark.parametrize("storage", [DEEP, WIDE, Storage(8, 20)])
def test_a_view_of_one_grey_level_is_told(storage):
    window = {"WindowCenter": 2725, "WindowWidth": 5310}
    bright = (RAMP.astype(int) + 32744).astype(np.uint16)
    assert read(make(bright, **window), storage).is_flat
    assert not read(make(RAMP, **window), storage).is_flat
    assert read(make(RAMP * 0), storage).is_flat


def test_a_kept_jpeg_of_one_grey_level_is_told():
    grey, ramp = np.full((64, 64), 90, np.uint8), np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    for image, is_flat in ((grey, True), (ramp, False)):
        scan = read(make(image, JPEGBaseline8Bit), WIDE)
        assert (scan.encoding, scan.is_flat) == ("jpeg-kept", is_flat)
    data = make(ramp, JPEGBaseline8Bit, WindowCenter=1000, WindowWidth=100)
    assert read(data, WIDE).is_flat
