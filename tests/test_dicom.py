"""DICOM files -> headers and scans, on files made here and on odd ones."""

import csv
import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit

from lake import Reject
from lake.sources import dicom


def make(pixels: np.ndarray, syntax=ExplicitVRLittleEndian, **elements) -> bytes:
    """A DICOM file of grey pixels [H, W]."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if syntax == JPEGBaseline8Bit:
        dataset.PixelData = encapsulate([jpeg(pixels)])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, comment=b"Doe^Jane")
    return buffer.getvalue()


def stored(scan) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(scan.image)))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32)).astype(np.uint8)


def test_a_right_jpeg_is_kept_without_its_comment(pixels):
    data = make(pixels, JPEGBaseline8Bit)
    scan = dicom.read_scan(data, "a.dcm", 1024, 8)
    assert scan.encoding == "jpeg-kept" and (scan.height, scan.width) == (24, 32)
    assert b"Doe" in data and b"Doe" not in scan.image and b"JFIF" not in scan.image
    original = jpeg(pixels)
    assert scan.image.endswith(original[original.index(b"\xff\xda") :])  # scan data bit for bit
    assert (stored(scan) == np.asarray(Image.open(io.BytesIO(original)))).all()


@pytest.mark.parametrize(
    "elements", [{"PhotometricInterpretation": "MONOCHROME1"}, {}], ids=["MONOCHROME1", "too large"]
)
def test_other_jpegs_are_decoded(pixels, elements):
    data = make(pixels, JPEGBaseline8Bit, **elements)
    assert dicom.read_scan(data, "a.dcm", 1024 if elements else 16, 8).encoding == "png"


def test_monochrome1_is_turned_over_and_hounsfield_units_stay(pixels):
    scan = dicom.read_scan(
        make(pixels, PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=-10),
        "a",
        64,
        8,
    )
    assert (stored(scan) == 255 - pixels).all()
    slope, intercept = scan.rescale
    assert np.allclose(stored(scan) * slope + intercept, pixels * 2.0 - 10)


def test_signed_pixels_and_window(pixels):
    values = pixels.astype(np.int16) * 8 - 1000  # Hounsfield units
    scan = dicom.read_scan(make(values, WindowCenter=40, WindowWidth=400), "a", 64, 16)
    slope, intercept = scan.rescale
    assert np.allclose(stored(scan) * slope + intercept, values)
    assert np.allclose(np.array(scan.window) * slope + intercept, [-160, 240])


def test_more_bits_go_through_the_window_into_an_8_bit_lake(pixels):
    values = pixels.astype(np.uint16) * 16
    scan = dicom.read_scan(
        make(values, BitsStored=12, HighBit=11, WindowCenter=2040, WindowWidth=4080), "a", 64, 8
    )
    assert (stored(scan) == pixels).all() and scan.window == (0, 255)
    assert np.allclose(stored(scan) * scan.rescale[0] + scan.rescale[1], values)


def test_shrinking_keeps_aspect_and_scales_the_spacing(pixels):
    scan = dicom.read_scan(make(pixels, PixelSpacing=[0.1, 0.2]), "a", 16, 8)
    assert (scan.height, scan.width) == (12, 16) and np.allclose(scan.pixel_spacing_mm, (0.2, 0.4))
    expected = pixels.reshape(12, 2, 16, 2).mean(axis=(1, 3))
    assert np.abs(stored(scan) - expected).max() <= 0.5


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("062Y", 62),
        ("62", 62),
        ("018M", 1),
        ("010D", 0),
        ("095Y", 90),
        ("413", -1),
        ("", -1),
        ("old", -1),
    ],
)
def test_ages(text, years):
    assert dicom.age_years(text) == years


def test_header_of_closed_vocabularies(pixels):
    data = make(
        pixels, PatientID="P1", ViewPosition="pa", PatientSex="Jane", Modality="CR", PatientAge="62"
    )
    header = dicom.read_header(io.BytesIO(data), "gs://bucket/x/ID_1.dcm", len(data), "name")
    assert (header.image_id, header.view, header.sex, header.modality, header.age) == (
        "ID_1",
        "PA",
        "",
        "CR",
        62,
    )
    assert dicom.read_header(io.BytesIO(data), "x", len(data), "uid").image_id == "1.2.3"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x89PNG not a DICOM file at all" * 20, "not-dicom"),
        (b"", "not-dicom"),
        (make(np.zeros((4, 4), np.uint8))[:-8], "undecodable"),
        (make(np.zeros((4, 4), np.uint8), JPEGBaseline8Bit)[:-20], "no-pixels"),
        (make(np.zeros((4, 4), np.uint8), PhotometricInterpretation="RGB"), "not-grey"),
        (
            make(np.zeros((4, 4), np.uint8), DeflatedExplicitVRLittleEndian)[:-9],
            "unreadable-header",
        ),
        (make(np.zeros((4, 4), np.uint8), Rows=[4, 4]), "unreadable-header"),
    ],
)
def test_broken_files_are_rejected(data, reason):
    with pytest.raises(Reject, match="a.dcm") as caught:
        dicom.read_header(io.BytesIO(data), "a.dcm", len(data), "name")
        dicom.read_scan(data, "a.dcm", 1024, 8)
    assert caught.value.reason == reason


def test_odd_files_are_scans_or_rejects(real_data):
    folder = real_data / "odd_dicom"
    with (folder / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    scans = 0
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        try:
            dicom.read_header(io.BytesIO(data), row["file"], len(data), "name")
            scan = dicom.read_scan(data, row["file"], None, 16)
        except Reject:
            continue
        scans += 1
        dataset = pydicom.dcmread(folder / row["file"])
        slope, intercept = scan.rescale
        wanted = dataset.pixel_array * float(dataset.get("RescaleSlope") or 1)
        wanted += float(dataset.get("RescaleIntercept") or 0)
        assert np.allclose(stored(scan) * slope + intercept, wanted), row["file"]
    assert len(rows) == 117 and scans >= 20
