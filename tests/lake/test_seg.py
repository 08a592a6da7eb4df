"""DICOM SEG objects: read back by highdicom and pydicom, judged by dciodvfy (Debian's
dicom3tools)."""

import io
import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from makers import dicom
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation

from lake import Reject
from lake.labels import rle
from lake.predictions import seg, seg_series
from lake.predictions.seg_series import PredictedMask, SegRequest
from lake.scan import Header

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=["highdicom", pytest.param("dciodvfy", marks=pytest.mark.services)])
def errors_of(request, tmp_path):
    """Return a function: SEG dataset -> the errors that a reader or Debian's validator reports."""

    def highdicom_errors(dataset) -> list[str]:
        assert highdicom.seg.segread(io.BytesIO(seg.encode(dataset))).number_of_segments == 1
        return []  # it raises

    def dciodvfy_errors(dataset) -> list[str]:
        path = tmp_path / "judged.dcm"
        path.write_bytes(seg.encode(dataset))
        process = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
        assert "Segmentation" in process.stderr + process.stdout  # it knew what it judged
        return [line for line in process.stderr.splitlines() if line.startswith("Error")]

    if request.param == "highdicom":
        return highdicom_errors
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy here; make test-services installs dicom3tools")
    return dciodvfy_errors


ALGORITHM = seg.Algorithm("radlake runs", "p > 0.4", {"runs": "runs", "weights": "ab12"})


class Memory(dict):
    """A lake.scan.Files of {path: bytes}."""

    read = dict.__getitem__


def segment(data: bytes, mask=None, mint_uids=False):
    """Return (SEG, copy of the source or None) of a file; raise the Reject that it is."""
    mask = np.zeros((6, 5), bool) if mask is None else mask
    header, rejects = Header("a.dcm", len(data), "a", *mask.shape, 8, modality="DX"), []
    request = SegRequest("pneumothorax", mint_uids, ALGORITHM)
    masks = [PredictedMask(header, rle.encode(mask))]
    files = dict(seg_series.files(Memory({"a.dcm": data}), masks, request, rejects))
    if rejects:
        raise Reject(rejects[0]["reason"], rejects[0]["message"])
    datasets = [pydicom.dcmread(io.BytesIO(content)) for content in files.values()]
    return datasets[0], (datasets[1] if len(datasets) == 2 else None)


def read_back(dataset) -> np.ndarray:
    """Return the mask [Rows, Columns] that highdicom reads in the bytes of a SEG of one image."""
    segmentation = highdicom.seg.segread(io.BytesIO(seg.encode(dataset)))
    uid = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    masks = segmentation.get_pixels_by_source_instance([uid.ReferencedSOPInstanceUID])
    assert masks.shape[0] == 1
    return masks[0, ..., 0]


@pytest.mark.parametrize("kind", ["corners", "random", "full", "empty"])
def test_the_same_mask_comes_back(kind, errors_of):
    mask = np.zeros((6, 5), np.uint8)
    if kind == "corners":
        mask[0, 0] = mask[5, 4] = mask[5, 0] = 255  # the last pixel, and rows told from columns
    elif kind != "empty":
        mask[:] = 255 if kind == "full" else np.random.default_rng(0).integers(0, 2, (6, 5))
    result, copy = segment(dicom.seg_source(), mask)
    assert copy is None
    assert (read_back(result) == (mask > 0)).all()
    assert not errors_of(result)


def test_it_refers_to_its_image_and_carries_the_patient():
    result, _ = segment(dicom.seg_source())
    assert (result.PatientID, result.PatientName) == ("17", "Doe^Jane")
    assert result.StudyInstanceUID == "1.2.826.0.1.3680043.9.2"
    [series] = result.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.826.0.1.3680043.9.3" != result.SeriesInstanceUID
    [image] = series.ReferencedInstanceSequence
    assert image.ReferencedSOPInstanceUID == "1.2.826.0.1.3680043.9.1" != result.SOPInstanceUID
    assert image.ReferencedSOPClassUID == DigitalXRayImageStorageForPresentation
    assert "OperatorsName" not in result  # not allow-listed


def test_of_a_ct_slice_it_lies_where_the_slice_does(errors_of):
    place = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.9.4",
        "ImagePositionPatient": [-120.5, 33.0, -210.25],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SliceThickness": 2.5,
    }
    result, _ = segment(dicom.seg_source(**place))
    assert result.FrameOfReferenceUID == place["FrameOfReferenceUID"]
    frame = result.PerFrameFunctionalGroupsSequence[0]
    assert frame.PlanePositionSequence[0].ImagePositionPatient == [-120.5, 33.0, -210.25]
    assert not errors_of(result)


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientAge": "38", "StudyDate": "yesterday", "PixelSpacing": None},
        {"PatientSex": "female", "PatientID": None, "PatientName": None, "StudyTime": "25:00"},
        {"PatientName": "Ängström^Åsa", "SpecificCharacterSet": "ISO_IR 100"},
        {"FrameOfReferenceUID": "none"},
    ],
)
def test_a_source_of_bad_manners_still_gives_a_legal_one(changes, errors_of):
    result, _ = segment(dicom.seg_source(**changes))
    assert not errors_of(result)
    if "PatientSex" not in changes:
        again = pydicom.dcmread(io.BytesIO(seg.encode(result)))
        assert again.PatientName == changes.get("PatientName", "Doe^Jane")
    assert result.get("PatientAge", "038Y") == "038Y"


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"SOPInstanceUID": "ID_00b0e5a9f"}, "illegal-uid", "'ID_00b0e5a9f' is not a legal SOP"),
        ({"StudyInstanceUID": None}, "illegal-uid", "no StudyInstanceUID"),
        ({"SeriesInstanceUID": "1.02"}, "illegal-uid", "'1.02' is not a legal Series"),
        ({"StudyInstanceUID": "9.99.1"}, "illegal-uid", "'9.99.1' is not a legal Study"),
        ({"NumberOfFrames": 2}, "multi-frame", "functional groups"),
        ({"SOPClassUID": None}, "unusable-source", "no SOP Class"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "unusable-source", "a DICOM image"),
        ({"SOPClassUID": CTImageStorage}, "unusable-source", "Frame Of Reference"),
    ],
)
def test_a_source_that_nothing_can_refer_to_is_a_reject(changes, reason, message):
    with pytest.raises(Reject) as caught:
        segment(dicom.seg_source(**changes))
    assert caught.value.reason == reason
    assert message in caught.value.message and "a.dcm" in caught.value.message


def test_minted_uids_are_legal_stable_and_shared_by_what_belongs_together(errors_of):
    def minted(**changes):
        result, copy = segment(dicom.seg_source(**changes), mint_uids=True)
        [series] = result.ReferencedSeriesSequence
        image = series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        dataset = pydicom.dcmread(io.BytesIO(seg.encode(copy)))
        # The copy of the source is what the SEG refers to.
        assert dataset.SOPInstanceUID == image == dataset.file_meta.MediaStorageSOPInstanceUID
        assert (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) == (
            result.StudyInstanceUID,
            series.SeriesInstanceUID,
        )
        assert len(dataset.PixelData) == 30
        assert not errors_of(result)
        return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID

    siim = {"SOPInstanceUID": "ID_1", "StudyInstanceUID": "", "SeriesInstanceUID": ""}
    first, other = minted(**siim), minted(**siim | {"SOPInstanceUID": "ID_2"})
    assert first == minted(**siim)
    assert len({*first, *other}) == 6  # without a word of its study, a file is one of its own
    same = {"SOPInstanceUID": "ID_1", "StudyInstanceUID": "study 5"}
    (study, series, image), (again, series_again, image_again) = (
        minted(**same),
        minted(**same | {"SOPInstanceUID": "ID_2"}),
    )
    assert (study, series) == (again, series_again) and image != image_again
    assert series == "1.2.826.0.1.3680043.9.3"  # what is legal stays
    assert minted(**same | {"PatientID": "18"})[0] != study
    assert segment(dicom.seg_source(), mint_uids=True)[1] is None


def test_real_sources(real_data, errors_of):
    """The organiser's files have legal UIDs, the published ones have not."""
    rng = np.random.default_rng(0)
    for folder, has_uids in (("siim_organiser", True), ("siim", False)):
        path = sorted((real_data / folder / "dicom").glob("*.dcm"))[0]
        mask = rng.random((1024, 1024)) < 0.1
        result, copy = segment(path.read_bytes(), mask, mint_uids=True)
        assert (copy is None) == has_uids
        assert (read_back(result) == mask).all()
        assert not errors_of(result)
        if copy is not None:
            again = pydicom.dcmread(io.BytesIO(seg.encode(copy)))
            assert (again.pixel_array == pydicom.dcmread(path).pixel_array).all()
