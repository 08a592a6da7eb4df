"""Mask files of every kind -> run lengths; against the arrays that were written."""

import csv
import gzip
import io
import itertools
import random
import struct

import highdicom
import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from makers import dicom as dicom_maker
from makers.images import encoded, png
from makers.marks import exhaustive
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from lake import Reject
from lake.labels import rle
from lake.sources.masks import lesions, mask_names, masks


@pytest.fixture(scope="module")
def lesion() -> np.ndarray:
    rows, columns = np.ogrid[:48, :40]
    return (rows - 20) ** 2 + 2 * (columns - 15) ** 2 < 150


def read(data: bytes, values: str = "", path: str = "masks/a.png") -> np.ndarray:
    """The lesion of the only mask in a file."""
    [mask] = masks.read(data, path, lesions.parse_values(values) if values else ())
    return rle.decode(mask.text, *mask.size) > 0


def reason(data: bytes, values: str = "", path: str = "masks/a.png") -> str:
    with pytest.raises(Reject, match=path) as caught:
        masks.read(data, path, lesions.parse_values(values) if values else ())
    return caught.value.reason


def picture(lesion: np.ndarray, *colours: tuple, mode: str = "RGB") -> Image.Image:
    """A picture of the background's colour, then the lesion's."""
    pixels = np.where(lesion[..., None], np.uint8(colours[1]), np.uint8(colours[0]))
    return Image.fromarray(pixels.astype(np.uint8), mode)


def palette(numbers: np.ndarray, *colours: tuple) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8)).convert("P")
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def test_masks_of_every_format(lesion):
    grey = lesion.astype(np.uint8)
    files = {
        "1 bit": encoded(lesion),
        "0 and 1": encoded(grey),
        "BMP": encoded(grey * 255, "BMP"),
        "1-bit BMP": encoded(Image.fromarray(lesion), "BMP"),
        "GIF": encoded(grey * 255, "GIF"),
        "16 bits": encoded(lesion.astype(np.uint16) * 65535),
        "16 bits, faint": encoded(lesion.astype(np.uint16)),
        "float TIFF": encoded(lesion.astype(np.float32), "TIFF"),
        "16-bit TIFF": encoded(lesion.astype(np.uint16) * 3, "TIFF"),
        "1-bit TIFF": encoded(Image.fromarray(lesion), "TIFF", compression="group4"),
        "JPEG": encoded(grey * 255, "JPEG", quality=75),
        "colour JPEG": encoded(picture(lesion, (0, 0, 0), (255, 255, 255)), "JPEG", quality=75),
        "opaque": encoded(Image.fromarray(grey * 255).convert("RGBA")),
        "palette": encoded(palette(lesion, (0, 0, 0), (128, 0, 0))),
        "palette GIF": encoded(palette(lesion, (0, 0, 0), (0, 0, 9)), "GIF"),
        "palette from white": encoded(palette(~lesion, (255, 255, 255), (0, 0, 0))),
    }
    for name, data in files.items():
        assert (read(data) == lesion).all(), name
    assert not read(encoded(np.zeros((3, 2), np.uint8))).any()
    assert read(encoded(np.full((3, 2), 255, np.uint8))).all()


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("value", [1, 2, 127, 128, 254, 255])
def test_a_channel_that_is_not_0_is_lesion(lesion, channel, value):
    colour = tuple(value * (k == channel) for k in range(3))
    files = [
        *(encoded(picture(lesion, (0, 0, 0), colour), kind) for kind in ("PNG", "BMP", "TIFF")),
        *(encoded(palette(lesion, (0, 0, 0), colour), kind) for kind in ("PNG", "GIF", "BMP")),
        encoded(picture(lesion, (0, 0, 0, 0), (*colour, 255), mode="RGBA")),
        encoded(picture(lesion, (0, 0, 0, 0), (*colour, 9), mode="RGBA")),
        encoded(picture(lesion, (9, 9, 9, 0), (*colour, 255), mode="RGBA")),
        encoded(picture(lesion, (0, 0, 0, 0), (*colour, 0), mode="RGBA")),  # no alpha at all
        encoded(picture(lesion, (255, 0), (value, 200), mode="LA")),
    ]
    for number, data in enumerate(files):
        assert (read(data) == lesion).all(), number


def test_masks_whose_lesion_is_unclear(lesion):
    classes, dark, soft = (lesion.astype(np.uint8) * highest for highest in (1, 8, 255))
    classes[0, 0], dark[0, 0], soft[0, 0] = 2, 7, 100
    two = np.zeros((48, 40, 3), np.uint8)
    two[lesion], two[0, 0] = (255, 0, 0), (0, 0, 255)
    faint = np.zeros((48, 40, 3), np.uint8)
    faint[lesion], faint[0, 0] = (1, 0, 0), (2, 0, 0)
    three = lesion.astype(np.uint8) * 255
    three[0] = 200
    for pixels in (classes, dark, soft, two, faint, three, lesion * np.uint8(100) + np.uint8(50)):
        assert reason(encoded(pixels)) == "mask-not-binary"
    for colours in (((9, 9, 9), (255, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((7, 7, 7), (7, 7, 7))):
        assert reason(encoded(palette(lesion, *colours))) == "mask-not-binary"
    for kind in ("JPEG",):  # noise is no lesion
        for highest in (1, 3, 60):
            assert reason(encoded(lesion.astype(np.uint8) * highest, kind)) == "mask-not-binary"
    painted = [((0, 0, 0, 0), (0, 0, 0, 255))]
    for colours in painted:
        assert reason(encoded(picture(lesion, *colours, mode="RGBA"))) == "transparent"
    clear = np.zeros((48, 40, 4), np.uint8)
    clear[..., :3] = np.arange(40)[:, None]
    clear[lesion, 3] = 255
    assert reason(encoded(Image.fromarray(clear))) == "transparent"
    frames = [Image.fromarray(lesion), Image.fromarray(~lesion)]
    for kind in ("GIF", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert reason(data) == "multi-frame"
    assert reason(b"nothing") == "not-an-image"
    assert reason(encoded(np.zeros((4, 4), np.uint8), "JPEG"), "1") == "mask-not-binary"


def test_chosen_values_are_the_lesion_and_no_others():
    numbers = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40) % 5
    colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (1, 2, 3), (0, 0, 0)]
    for chosen, text in (([1], "1"), ([1, 3], "1,3"), ([4], " 4 ")):
        expected = np.isin(numbers, chosen)
        red = np.zeros((48, 40, 3), np.uint8)
        red[..., 0] = numbers
        for data in (
            encoded(numbers),
            encoded(numbers.astype(np.uint16)),
            encoded(numbers.astype(np.float32), "TIFF"),
            encoded(palette(numbers, *colours)),
            encoded(palette(numbers, *colours), "GIF"),
            encoded(red),
        ):
            assert (read(data, text) == expected).all()
    assert (read(encoded(palette(numbers, *colours)), "#010203") == (numbers == 3)).all()
    two = read(encoded(palette(numbers, *colours)), "#FF0000,#00ff00")
    assert (two == np.isin(numbers, (1, 2))).all()
    rgb = np.array(colours, np.uint8)[numbers]
    assert (read(encoded(rgb), "#ff0000,#00ff00") == np.isin(numbers, (1, 2))).all()
    assert reason(encoded(rgb), "1") == "mask-not-binary"  # of which channel?
    assert not read(encoded(numbers), "77").any()
    rows = np.array([[0, 0b00011011], [0, 0b11100100]], np.uint8)  # filter, four pixels of 2 bits
    assert (read(png(rows.tobytes(), 2, 4, bits=2), "1,3") == [[0, 1, 0, 1], [1, 0, 1, 0]]).all()
    assert (read(encoded(numbers == 1), "1") == (numbers == 1)).all()  # 1 bit
    for text in ("", "red", "1;2", "-1", "#12345", "1,,2"):
        with pytest.raises(ValueError, match="expected whole numbers or colours"):
            lesions.parse_values(text)


def test_names_of_masks():
    assert (
        mask_names.image_id("x/a.b.png") == "a.b"
        and mask_names.image_id(r"x\a_mask.PNG") == "a_mask"
    )
    assert mask_names.image_id("x/a.nii.gz") == mask_names.image_id("x/a.nii") == "a"
    assert mask_names.image_id("x/1.2.840", is_dicom=True) == "1.2.840"
    assert mask_names.image_id("x/1.2.840.dcm", is_dicom=True) == "1.2.840"
    assert mask_names.image_id("x/a_1_mask.png", "_mask") == "a_1"
    assert mask_names.image_id("x/a_1.png", "_mask") is None
    assert mask_names.image_id("x/_mask.png", "_mask") is None  # of no image
    for name, expected in (("a_1", "a"), ("a_b_12", "a_b"), ("a", None)):
        assert mask_names.image_id(f"x/{name}.png", "_*") == expected
    assert mask_names.image_id("x/benign (1)_mask_2.png", "_mask*") == "benign (1)"
    assert mask_names.image_id("x/a_3.png", "_[0-9]") == "a"


# --- DICOM ---


def test_masks_in_dicom_images(lesion):
    files = {
        "8 bits": dicom_maker.make(lesion.astype(np.uint8) * 255),
        "faint": dicom_maker.make(lesion.astype(np.uint8)),
        "16 bits": dicom_maker.make(lesion.astype(np.uint16) * 1000),
        "signed": dicom_maker.make(lesion.astype(np.int16)),
        "window": dicom_maker.make(lesion.astype(np.uint8), WindowCenter=90, WindowWidth=9),
        "colour": dicom_maker.make(np.stack([lesion * 0, lesion * 1, lesion * 0], 2).astype("u1")),
        "JPEG": dicom_maker.make(lesion.astype(np.uint8) * 255, JPEGBaseline8Bit),
    }
    for name, data in files.items():
        assert (read(data, path="a.dcm") == lesion).all(), name
    numbers = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40) % 5
    assert (read(dicom_maker.make(numbers), "2,4") == np.isin(numbers, (2, 4))).all()
    assert reason(dicom_maker.make(numbers)) == "mask-not-binary"
    inverted = dicom_maker.make(lesion.astype(np.uint8), PhotometricInterpretation="MONOCHROME1")
    assert reason(inverted) == "unknown-colour"
    assert reason(dicom_maker.make(np.stack([lesion] * 2).astype("u1"), frames=2)) == "multi-frame"


def series(count: int) -> list[pydicom.Dataset]:
    """CT slices of 48 x 40 pixels."""
    slices = []
    for k in range(count):
        data = dicom_maker.make(np.zeros((48, 40), np.int16), SOPInstanceUID=f"1.2.840.9.{k}")
        ct = pydicom.dcmread(io.BytesIO(data))
        ct.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        ct.StudyInstanceUID, ct.SeriesInstanceUID = "1.2.840.1", "1.2.840.2"
        ct.FrameOfReferenceUID, ct.Modality = "1.2.840.3", "CT"
        ct.ImagePositionPatient, ct.ImageOrientationPatient = [0, 0, k], [1, 0, 0, 0, 1, 0]
        ct.PixelSpacing, ct.SliceThickness = [1, 1], 1
        ct.PatientID = ct.PatientName = ct.PatientBirthDate = ct.PatientSex = ""
        ct.StudyID = ct.AccessionNumber = ct.StudyDate = ct.StudyTime = ""
        ct.InstanceNumber = ct.SeriesNumber = k
        slices.append(ct)
    return slices


def seg(pixels: np.ndarray, kind: str = "BINARY", **options) -> bytes:
    """A SEG of pixels [slices, H, W] or [slices, H, W, segments], written by highdicom."""
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number + 1,
            segment_label=f"Segment {number + 1}",
            segmented_property_category=pydicom.sr.codedict.codes.SCT.Tissue,
            segmented_property_type=pydicom.sr.codedict.codes.SCT.Tissue,
            algorithm_type="MANUAL",
        )
        for number in range(int(np.ceil(pixels.max())))
    ]
    dataset = highdicom.seg.Segmentation(
        source_images=series(len(pixels)),
        pixel_array=pixels.copy(),  # highdicom scales it in place
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def lesions_of(data: bytes, values: str = "") -> dict[str, np.ndarray]:
    chosen = lesions.parse_values(values) if values else ()
    return {
        mask.sop_uid: rle.decode(mask.text, *mask.size) > 0
        for mask in masks.read(data, "seg.dcm", chosen)
    }


@pytest.mark.parametrize(
    "options", [{}, {"transfer_syntax_uid": RLELossless, "kind": "FRACTIONAL"}]
)
def test_a_seg_has_the_masks_of_the_images_that_it_names(lesion, options):
    pixels = np.zeros((4, 48, 40), np.uint8)
    pixels[1], pixels[2, 7, 9:12] = lesion, 1
    expected = {f"1.2.840.9.{k}": pixels[k] > 0 for k in range(4)}
    for omit in (True, False):
        result = lesions_of(seg(pixels, omit_empty_frames=omit, **options))
        assert result.keys() == expected.keys()
        assert all((result[uid] == expected[uid]).all() for uid in expected)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_are_chosen_never_merged(lesion, kind):
    pixels = np.zeros((2, 48, 40), np.uint8)
    pixels[0, :5], pixels[1][lesion], pixels[1, 0, 0] = 1, 2, 3
    data = seg(pixels, kind)
    with pytest.raises(Reject, match="3 segments: 1 Segment 1, 2 .* --mask_values"):
        masks.read(data, "seg.dcm")
    for text, numbers in (("1", [1]), ("2,3", [2, 3])):
        result = lesions_of(data, text)
        for k in range(2):
            assert (result[f"1.2.840.9.{k}"] == np.isin(pixels[k], numbers)).all()


def test_segs_whose_place_or_lesion_is_unclear(lesion):
    dataset = pydicom.dcmread(io.BytesIO(seg(lesion[None].astype(np.uint8))))

    def reason_with(change) -> str:
        changed = pydicom.dcmread(io.BytesIO(data))
        change(changed, changed.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0])
        buffer = io.BytesIO()
        changed.save_as(buffer)
        return reason(buffer.getvalue())

    buffer = io.BytesIO()
    dataset.save_as(buffer)
    data = buffer.getvalue()

    def move(changed, derivation):
        derivation.SourceImageSequence[0].SpatialLocationsPreserved = "NO"

    def lose(changed, derivation):
        derivation.SourceImageSequence = []
        changed.ReferencedSeriesSequence = []

    assert reason_with(move) == "mask-axes"
    assert reason_with(lose) == "mask-without-image"
    shares = np.full((1, 48, 40), 0.5)
    shares[0, 0] = 1
    assert reason(seg(shares, "FRACTIONAL")) == "mask-not-binary"


# --- NIfTI ---


def test_the_codestreams_of_a_seg_are_bounded_as_those_of_images(lesion):
    """A frame that says it is larger than its mask, or expands to more, is never decoded."""
    dataset = pydicom.dcmread(io.BytesIO(seg(lesion[None].astype(np.uint8))))
    dataset.SegmentationType, dataset.MaximumFractionalValue = "FRACTIONAL", 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    runs = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * 3000  # 384,000 zeros
    wide = imagecodecs.jpegls_encode(np.zeros((4000, 4000), np.uint8))
    right = imagecodecs.jpegls_encode(lesion.astype(np.uint8))
    for frame, syntax, words in (
        (runs, RLELossless, "more than 1920 bytes"),
        (wide, JPEGLSLossless, "(4000, 4000, 1)"),
        (right, JPEGLSLossless, ""),
    ):
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        if not words:
            [(_, mask)] = lesions_of(buffer.getvalue()).items()
            assert (mask == lesion).all()
            continue
        with pytest.raises(Reject) as caught:
            lesions_of(buffer.getvalue())
        assert words in caught.value.message


def nifti(array: np.ndarray, code=2, order="<", sform=None, slope=1.0) -> bytes:
    """A NIfTI-1 file of an array [D, H, W], written by hand."""
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    sizes = array.shape[::-1]
    struct.pack_into(f"{order}8h", head, 40, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    struct.pack_into(f"{order}2h", head, 70, code, 8 * array.itemsize)
    struct.pack_into(f"{order}3f", head, 108, 352, slope, 0)
    if sform is not None:
        struct.pack_into(f"{order}h", head, 254, 1)
        struct.pack_into(f"{order}12f", head, 280, *np.ravel(sform))
    head[344:348] = b"n+1\0"
    return bytes(head) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def test_nifti_masks(lesion, tmp_path):
    grey = lesion.astype(np.uint8)
    types = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
    for (code, dtype), order in itertools.product(types.items(), "<>"):
        data = nifti(lesion.astype(dtype)[None], code, order)
        assert (read(data, path="a.nii") == lesion).all()
    assert (read(nifti(grey), path="a.nii") == lesion).all()  # two axes
    assert (read(gzip.compress(nifti(grey[None])), path="a.nii.gz") == lesion).all()
    assert (read(nifti(grey[None], slope=3.0)) == lesion).all()
    for picture in (grey, grey[None]):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(picture), tmp_path / "a.nii.gz")
        assert (read((tmp_path / "a.nii.gz").read_bytes()) == lesion).all()
    numbers = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40) % 5
    assert (read(nifti(numbers), "2") == (numbers == 2)).all()


def test_nifti_masks_whose_axes_are_unclear_are_rejected(lesion):
    grey = lesion.astype(np.uint8)[None]
    eye = np.eye(4)[:3]  # as nibabel writes an array [H, W] or [W, H]
    for signs in itertools.product((1, -1), repeat=2):
        sform = eye * np.array([*signs, 1])[:, None]
        is_read = signs == (-1, -1)
        data = nifti(grey, sform=sform)
        if is_read:
            assert (read(data) == lesion).all()
        else:
            assert reason(data) == "mask-axes"
    assert reason(nifti(grey, sform=-eye[[1, 0, 2]])) == "mask-axes"
    assert reason(nifti(np.concatenate([grey, grey]))) == "multi-frame"
    data = nifti(grey)
    for damaged in (data[:-1], data[:300], gzip.compress(data)[:-9], gzip.compress(data[:-1])):
        assert reason(damaged) in ("undecodable", "not-an-image")


# --- damage, and real masks ---


def damaged(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(len(data))] if rng.random() < 0.2 else content)


def check_damaged(lesion: np.ndarray, count: int) -> None:
    grey, rng = lesion.astype(np.uint8), random.Random(0)
    sources = [
        encoded(grey),
        encoded(palette(lesion, (0, 0, 0), (1, 0, 0))),
        encoded(picture(lesion, (0, 0, 0, 0), (0, 0, 255, 255), mode="RGBA")),
        nifti(grey),
        gzip.compress(nifti(grey)),
        dicom_maker.make(grey),
        seg(grey[None]),
        seg(grey[None], "LABELMAP"),
    ]
    ends = set()
    for number in range(count):
        data = damaged(sources[number % len(sources)], rng)
        try:
            for mask in masks.read(data, "a", ("1",) if number % 3 == 0 else ()):
                assert rle.decode(mask.text, *mask.size).shape == mask.size
                ends.add("mask")
        except Reject as reject:
            assert len(reject.message) < 1000
            ends.add(reject.reason)
    assert ends >= {"mask", "undecodable", "mask-not-binary", "not-an-image"}


def test_a_damaged_mask_is_a_mask_or_a_reject(lesion):
    check_damaged(lesion, 160)


@exhaustive
def test_many_damaged_masks(lesion):
    check_damaged(lesion, 20_000)


def test_real_masks_as_images(real_data):
    with open(real_data / "nih_png" / "train-rle.csv", newline="") as file:
        texts = [row[1].strip() for row in csv.reader(file)][1:]
    for text in texts[:8]:
        mask = rle.decode(text, 1024, 1024)
        for kind in ("PNG", "JPEG"):
            assert (read(encoded(mask, kind)) == (mask > 0)).all()
            assert (read(encoded(Image.fromarray(mask).convert("RGB"), kind)) == (mask > 0)).all()
