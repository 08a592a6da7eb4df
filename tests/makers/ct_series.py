"""DICOM files of a CT series with legal UIDs and a place in the patient, as a scanner writes them:
one file per slice, or as an Enhanced CT all in one."""

import io
from collections.abc import Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.9.77"
AXIAL = (1, 0, 0, 0, 1, 0)


def positions(count: int, step=(0, 0, 3.0), start=(-179.2, -100.0, 40.0)) -> list[list[float]]:
    """Return where the first pixels of slices lie, in mm."""
    return [[a + k * b for a, b in zip(start, step, strict=True)] for k in range(count)]


def slice_file(position: Sequence[float], number: int, pixels: np.ndarray, **changes) -> bytes:
    """Return the file of a slice with values in HU, int16 [H, W]; None leaves an element out."""
    elements = {
        **_common(CTImageStorage, f"{ROOT}.1.{number}", pixels.shape),
        "InstanceNumber": number,
        "ImagePositionPatient": [f"{value:.6f}" for value in position],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [2.8, 2.8],
        "SliceThickness": 3.0,
        "PixelData": pixels.tobytes(),
    }
    return _encode(elements | changes)


def enhanced_file(places: Sequence[Sequence[float]], volume: np.ndarray, **changes) -> bytes:
    """Return one file of slices with values in HU, int16 [S, H, W], at these positions."""
    shared = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": list(AXIAL)},
        "PixelMeasuresSequence": {"PixelSpacing": [2.8, 2.8], "SliceThickness": 3.0},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0},
    }
    frames = [
        {"PlanePositionSequence": {"ImagePositionPatient": [f"{value:.6f}" for value in place]}}
        for place in places
    ]
    elements = {
        **_common(EnhancedCTImageStorage, f"{ROOT}.2.1", volume.shape[1:]),
        "NumberOfFrames": len(volume),
        "SharedFunctionalGroupsSequence": [_groups(shared)],
        "PerFrameFunctionalGroupsSequence": [_groups(frame) for frame in frames],
        "PixelData": volume.tobytes(),
    }
    return _encode(elements | changes)


def body(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Return slices of tissue with a bright box that moves from slice to slice, int16 [S, H, W]."""
    random = np.random.default_rng(seed)
    volume = np.full((count, side, side), -800, np.int16)
    for k in range(count):
        top, left = random.integers(0, side - 8, 2)
        volume[k, top : top + 5, left : left + 7] = 300
    return volume


def _common(sop_class: str, uid: str, shape: tuple[int, int]) -> dict:
    return {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": f"{ROOT}.3",
        "SeriesInstanceUID": f"{ROOT}.4",
        "FrameOfReferenceUID": f"{ROOT}.5",
        "Modality": "CT",
        "PatientName": "Phantom^A",
        "PatientID": "17",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": "20200101",
        "StudyTime": "101000",
        "StudyID": "1",
        "SeriesNumber": 2,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": shape[0],
        "Columns": shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "WindowCenter": -300,
        "WindowWidth": 1400,
    }


def _groups(content: dict[str, dict]) -> Dataset:
    group = Dataset()
    for sequence, values in content.items():
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        setattr(group, sequence, [item])
    return group


def _encode(elements: dict) -> bytes:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
