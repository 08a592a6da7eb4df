"""CT volumes in one DICOM file, against the voxels and places that were written."""

import numpy as np
import pydicom
import pytest
from makers.volumes import SIXTEEN, headers_of, hu_of, masks_of
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from lake import Reject
from lake.labels.nodules import Nodule
from lake.sources.dicom import data_set
from lake.sources.volumes import metaimage, series


def item(**elements) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def enhanced(path, voxels, order, syntax=ExplicitVRLittleEndian, **elements):
    """Write CT slices [S, H, W] as an Enhanced CT, in an order of its frames, each with a Rescale
    Intercept of its own."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "1.9", "1.8"
    dataset.Modality, dataset.PatientID = "CT", "P1"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *voxels.shape[1:], 1
    dataset.PhotometricInterpretation, dataset.NumberOfFrames = "MONOCHROME2", len(voxels)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    orientation = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    measures = item(PixelSpacing=[0.9, 0.7], SliceThickness=2)
    shared = item(PlaneOrientationSequence=[orientation], PixelMeasuresSequence=[measures])
    groups = []
    for k in order:
        position = item(ImagePositionPatient=[-5, 7, 2.5 * k])
        units = item(RescaleIntercept=-10 * k, RescaleSlope=1, RescaleType="HU")
        groups.append(
            item(PlanePositionSequence=[position], PixelValueTransformationSequence=[units])
        )
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = (
        [shared],
        groups,
    )
    planes = [(voxels[k] + 10 * k).astype("<i2") for k in order]
    dataset.PixelData = b"".join(plane.tobytes() for plane in planes)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("order", [range(6), [3, 0, 5, 1, 4, 2]])
def test_an_enhanced_ct_is_a_volume(tmp_path, syntax, order):
    voxels = np.random.default_rng(1).integers(-1000, 2000, (6, 20, 16)).astype(np.int16)
    path = enhanced(tmp_path / "a.dcm", voxels, order)
    if syntax == RLELossless:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    elif syntax == ImplicitVRLittleEndian:
        enhanced(path, voxels, order, syntax)
    headers = headers_of(path)
    center = -5 + 0.7 * 8, 7 + 0.9 * 6, 2.5 * 4
    selection, _ = series.slices(headers, [Nodule(center, 4.0)], 1.0)
    assert [one.image_id for one, _ in selection] == [f"1.9#{k:04d}" for k in range(6)]
    for k, (one, _) in enumerate(selection):
        scan = metaimage.read_scan(str(path), one, SIXTEEN)
        assert (hu_of(scan) == voxels[k]).all() and scan.slice_mm == 2.5 * k
        assert scan.pixel_spacing_mm == (0.9, 0.7)
    masks = masks_of(selection, 20, 16)
    assert 4 in masks and np.argwhere(masks[4]).mean(axis=0) == pytest.approx([6, 8], abs=0.1)


def test_what_a_frame_costs_does_not_grow_with_the_frames(tmp_path, monkeypatch):
    """The groups of a frame lie behind those of all before it, and with undefined lengths each has
    to be walked through."""
    calls, voxels = [], np.arange(40 * 16, dtype=np.int16).reshape(40, 4, 4)
    path = enhanced(tmp_path / "a.dcm", voxels, range(40))
    dataset = pydicom.dcmread(path)
    for sequence in dataset.iterall():
        if sequence.VR == "SQ":
            sequence.is_undefined_length = True
            for part in sequence.value:
                part.is_undefined_length_sequence_item = True
    dataset.save_as(path)
    headers = headers_of(path)

    def counting(function):
        def counted(*arguments, **options):
            calls.append(function)
            return function(*arguments, **options)

        return counted

    for walker in ("walk", "end_of"):
        monkeypatch.setattr(data_set, walker, counting(getattr(data_set, walker)))
    for k, header in enumerate(headers):
        assert (hu_of(metaimage.read_scan(str(path), header, SIXTEEN)) == voxels[k]).all()
    assert 40 < len(calls) < 40 * 20


def test_frames_of_which_nobody_says_where_they_lie_are_a_reject(tmp_path):
    voxels = np.zeros((3, 8, 8), np.int16)
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    for changes in ({}, place):
        changes = {"PerFrameFunctionalGroupsSequence": None, **changes}
        path = enhanced(tmp_path / "a.dcm", voxels, range(3), **changes)
        with pytest.raises(Reject, match="one file per slice") as caught:
            headers_of(path)
        assert caught.value.reason == "multi-frame" and "--frames" not in caught.value.message
