"""CT volumes written by SimpleITK, and masks of series."""

import io
import math
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from lake.labels import rle
from lake.scan import Header, Scan, Storage
from lake.sources.volumes import metaimage

SIXTEEN = Storage(bits=16, max_side=None)


def headers_of(path) -> list[Header]:
    """What a listing reads of a CT file."""
    with open(path, "rb") as file:
        return metaimage.read_headers(file, str(path), path.stat().st_size)


def hu_of(scan: Scan) -> np.ndarray:
    """The HU [H, W] of a record's slice."""
    slope, intercept = scan.rescale
    return np.asarray(Image.open(io.BytesIO(scan.image))).astype(float) * slope + intercept


def volume(voxels, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), spacing=(0.7, 0.9, 2.5)) -> sitk.Image:
    """A volume [S, H, W] that does not lie at the origin."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin((-120.5, 33.0, -210.25))
    image.SetDirection(direction)
    return image


def write_volume(image, folder, name="volume.mhd", compress=False):
    path = folder / name
    sitk.WriteImage(image, str(path), compress)
    return path


a, b = math.radians(20), math.radians(-35)
OBLIQUE = tuple(
    (
        np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        @ np.array([[math.cos(b), -math.sin(b), 0], [math.sin(b), math.cos(b), 0], [0, 0, 1]])
    ).ravel()
)


def write_dicom_slices(hu, folder) -> list[Path]:
    """Write a series of oblique CT slices [S, H, W], 3 mm apart, one file each, in no order; return
    the paths, sorted."""
    matrix, paths = np.reshape(OBLIQUE, (3, 3)), []
    for k, name in enumerate(np.random.default_rng(2).permutation(len(hu))):
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{k}"
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "1.9", "1.8"
        dataset.PatientID, dataset.PatientSex, dataset.PatientAge = "P1", "F", "061Y"
        dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        # Rounded, as scanners do.
        position = np.array([5.0, -7.0, 11.0]) + matrix[:, 2] * 3.0 * k
        dataset.ImagePositionPatient = [f"{value:.3f}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.6f}" for value in matrix.T[:2].ravel()]
        dataset.PixelSpacing, dataset.SliceThickness = [0.9, 0.7], 5.0
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *hu[k].shape, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation, dataset.RescaleSlope = 0, 1
        dataset.RescaleIntercept = -1024
        dataset.PixelData = (hu[k] + 1024).astype("<u2").tobytes()
        paths.append(folder / f"{name}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return sorted(paths)


def masks_of(selection, height, width) -> dict[int, np.ndarray]:
    return {
        int(header.image_id.split("#")[1]): rle.decode(label.rle, height, width) > 0
        for header, label in selection
        if label.lesion_px
    }
