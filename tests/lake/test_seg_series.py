"""SEGs of series: which images share one, where its frames lie, and what it says about itself. Read
back by pydicom, highdicom and SimpleITK, judged by dciodvfy."""

import io
import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from makers.ct_series import ROOT, body, enhanced_file, positions, slice_file
from makers.dicom import seg_source

from lake.labels import rle
from lake.predictions import seg, seg_series
from lake.predictions.seg_series import PredictedMask, SegRequest
from lake.scan import Storage
from lake.sources import reader
from lake.sources.reader import ReaderSettings
from lake.sources.volumes import series

pytestmark = pytest.mark.filterwarnings("ignore")
IDENTITY = {
    "runs": ["nodules [lr=1e-3]"],
    "evaluated_as": "evaluate",
    "decision": {
        "triplet": {"top": 0.7, "area_share": 0.002, "bottom": 0.4},
        "lesion_threshold": 0.3,
    },
    "tta": ["none"],
    "level": None,
    "weights_sha256": {"segmenters": ["ab" * 32], "classifiers": []},
}
ALGORITHM = seg.algorithm(IDENTITY)
SIDE = 32


class Memory(dict):
    """A lake.scan.Files of {path: bytes}."""

    read = dict.__getitem__


def headers_of(files: dict[str, bytes], is_ct: bool) -> list:
    """Return the headers of all images in the order of the paths, as predict has them."""
    settings = ReaderSettings(is_ct, "name", Storage(16 if is_ct else 8, 1024))
    headers = []
    for path, content in sorted(files.items()):
        headers += reader.read_file(io.BytesIO(content), path, len(content), settings, "")[1]
    return series.stack_slices(headers) if is_ct else headers


def predicted(header, seed=0) -> np.ndarray:
    """Return a mask that only this image has; that of every third one is empty."""
    number = sum(map(ord, header.path)) + header.frame
    random = np.random.default_rng([seed, number])
    return random.random((header.height, header.width)) < 0.3 * (number % 3)


def segs_of(files, is_ct=False, mint_uids=False, seed=0, algorithm=ALGORITHM) -> tuple[dict, list]:
    """Return ({name: SEG}, rejects) of all the files of one series."""
    masks = [
        PredictedMask(header, rle.encode(predicted(header, seed)))
        for header in headers_of(files, is_ct)
    ]
    request, rejects = SegRequest("nodule", mint_uids, algorithm), []
    contents = dict(seg_series.files(Memory(files), masks[::-1], request, rejects))
    return {name: pydicom.dcmread(io.BytesIO(c)) for name, c in contents.items()}, rejects


def places_in(files: dict[str, bytes]) -> dict[tuple[str, int], tuple]:
    """Return {(SOP instance, frame from 1): (path, frame from 0, data set, position)}."""
    places = {}
    for path, content in files.items():
        dataset = pydicom.dcmread(io.BytesIO(content))
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or [None]
        for frame, group in enumerate(groups):
            place = dataset if group is None else group.PlanePositionSequence[0]
            position = [float(value) for value in place.ImagePositionPatient]
            places[dataset.SOPInstanceUID, frame + 1] = (path, frame, dataset, position)
    return places


def check_frames(result, files, is_ct=False, seed=0) -> list[list[float]]:
    """Check each frame of a SEG against its source; return the frames' positions."""
    places, pixels = places_in(files), result.pixel_array.reshape(-1, result.Rows, result.Columns)
    headers = {(header.path, header.frame): header for header in headers_of(files, is_ct)}
    all_positions = []
    for group, mask in zip(result.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        [source] = group.DerivationImageSequence[0].SourceImageSequence
        key = source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber", 1)
        path, frame, dataset, position = places[key]
        actual = group.PlanePositionSequence[0].ImagePositionPatient
        assert [float(value) for value in actual] == position
        assert source.ReferencedSOPClassUID == dataset.SOPClassUID
        assert (mask == predicted(headers[path, frame], seed)).all()
        all_positions.append(position)
    instances = result.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    uids = [instance.ReferencedSOPInstanceUID for instance in instances]
    assert len(set(uids)) == len(uids) and set(uids) <= {uid for uid, _ in places}
    assert result.FrameOfReferenceUID == dataset.FrameOfReferenceUID
    return all_positions


def spacing_of(result) -> float | None:
    [measures] = result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    value = measures.get("SpacingBetweenSlices")
    return None if value is None else float(value)


def check_with_itk(result, tmp_path, step_mm: float) -> None:
    """SimpleITK finds the geometry and the pixels of a regular stack."""
    path = tmp_path / "itk.dcm"
    path.write_bytes(seg.encode(result))
    image = SimpleITK.ReadImage(str(path))
    frames = result.PerFrameFunctionalGroupsSequence
    position = frames[0].PlanePositionSequence[0].ImagePositionPatient
    shared = result.SharedFunctionalGroupsSequence[0]
    row_mm, column_mm = shared.PixelMeasuresSequence[0].PixelSpacing
    assert image.GetSize() == (result.Columns, result.Rows, len(frames))
    np.testing.assert_allclose(image.GetOrigin(), position, atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), (column_mm, row_mm, step_mm), atol=1e-3)
    cosines = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    matrix = np.stack([*cosines, np.cross(*cosines.astype(float))], axis=1)
    np.testing.assert_allclose(image.GetDirection(), matrix.ravel(), atol=1e-4)
    actual = SimpleITK.GetArrayFromImage(image) > 0
    assert (actual == result.pixel_array.reshape(actual.shape)).all()
    # The last slice lies where its source does.
    last = frames[-1].PlanePositionSequence[0].ImagePositionPatient
    index = (0, 0, len(frames) - 1)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), last, atol=0.02)


def series_files(places, names=None, side=SIDE, **changes) -> dict[str, bytes]:
    """Return {path: slice} at these positions, in an order of names that is not theirs."""
    volume = body(len(places), side)
    order = np.random.default_rng(1).permutation(len(places)) if names is None else names
    return {
        f"ct/s{order[k]}.dcm": slice_file(place, k + 1, volume[k], **changes)
        for k, place in enumerate(places)
    }


OBLIQUE = {"ImageOrientationPatient": [0.8, 0.6, 0, -0.36, 0.48, 0.8]}
NORMAL = np.cross([0.8, 0.6, 0], [-0.36, 0.48, 0.8])


@pytest.mark.parametrize("is_ct", [False, True])
@pytest.mark.parametrize(
    ("places", "changes", "step_mm"),
    [
        (positions(12), {}, 3.0),
        (positions(5, (0, 0, -0.625)), {"SliceThickness": 1.25}, 0.625),
        (positions(4, NORMAL * 2.5), OBLIQUE, 2.5),
        (positions(3), {"SliceThickness": None}, 3.0),
        (positions(3), {"SpacingBetweenSlices": 17}, 3.0),
        (positions(5), {"Rows": 31, "Columns": 31, "PixelData": bytes(1922)}, 3.0),
        (np.round(positions(9, (0, 0, 2 / 3)), 2), {}, 2 / 3),
    ],
    ids=["case", "downwards", "oblique", "no thickness", "wrong spacing", "31 px", "rounded"],
)
def test_a_series_is_one_object_that_lies_where_its_slices_do(
    places, changes, step_mm, is_ct, tmp_path
):
    files = series_files(places, **changes)
    segs, rejects = segs_of(files, is_ct)
    assert not rejects and list(segs) == [f"{ROOT}.4.dcm"]
    [result] = segs.values()
    all_positions = check_frames(result, files, is_ct)
    assert sorted(all_positions) == sorted(np.round(places, 6).tolist())
    assert spacing_of(result) == pytest.approx(step_mm, abs=1e-3)
    volume = highdicom.seg.segread(io.BytesIO(seg.encode(result))).get_volume(rtol=0.05)
    assert volume.spacing[0] == pytest.approx(step_mm, abs=1e-3)
    assert (volume.array > 0).sum() == result.pixel_array.sum()
    # GDCM, which SimpleITK reads with, wants frames of whole bytes, and steps alike to 0.001 mm.
    if result.Rows == SIDE and step_mm != 2 / 3:
        check_with_itk(result, tmp_path, step_mm)


def test_a_gantry_tilt_is_kept_frame_by_frame():
    files = series_files(positions(6, (0, 1.0, 3.0)))
    [result] = segs_of(files)[0].values()
    check_frames(result, files)
    assert spacing_of(result) == pytest.approx(3.0, abs=1e-3)  # along the normal


@pytest.mark.parametrize(
    ("kept", "step_mm"), [((0, 1, 3, 4, 7), 3.0), ((0, 2, 5), None), ((3,), None)]
)
def test_missing_slices_leave_gaps_and_a_single_one_has_no_spacing(kept, step_mm):
    files = series_files(np.array(positions(8))[list(kept)])
    [result] = segs_of(files)[0].values()
    assert len(check_frames(result, files)) == len(kept)
    assert spacing_of(result) == (step_mm and pytest.approx(step_mm, abs=1e-3))


def test_uneven_slices_have_no_spacing():
    places = positions(4)
    places[2][2] += 1.1
    files = series_files(places)
    [result] = segs_of(files)[0].values()
    check_frames(result, files)
    assert spacing_of(result) is None


def test_an_enhanced_ct_is_referred_to_frame_by_frame(tmp_path):
    places = positions(6)
    order = [3, 0, 5, 1, 4, 2]
    files = {"a.dcm": enhanced_file(np.array(places)[order], body(6))}
    for is_ct in (False, True):
        segs, rejects = segs_of(files, is_ct)
        [result] = segs.values()
        assert not rejects and len(check_frames(result, files, is_ct)) == 6
        check_with_itk(result, tmp_path, 3.0)
        numbers = [
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            for group in result.PerFrameFunctionalGroupsSequence
        ]
        assert [order[number - 1] for number in numbers] == list(range(6))


def test_slices_of_two_sizes_orientations_spacings_or_at_one_position_are_objects_of_their_own():
    files = series_files(positions(4), names=range(4))
    other = {"Rows": 16, "PixelData": bytes(16 * 32 * 2)}
    more = {
        "small": slice_file((0, 0, 0), 11, body(1)[0], **other),
        "oblique": slice_file((0, 0, 0), 12, body(1)[0], **OBLIQUE),
        "finer": slice_file((0, 0, 0), 13, body(1)[0], PixelSpacing=[1.4, 1.4]),
    }
    # A second phase of the first three slices.
    more |= {
        f"a phase {k}": slice_file(place, 20 + k, body(1)[0], AcquisitionNumber=2)
        for k, place in enumerate(positions(3))
    }
    files |= more
    segs, rejects = segs_of(files)
    assert not rejects
    assert sorted(len(result.PerFrameFunctionalGroupsSequence) for result in segs.values()) == [
        *(1, 1, 1, 3, 4)
    ]
    assert list(segs) == [f"{ROOT}.4{end}.dcm" for end in ("", "_2", "_3", "_4", "_5")]
    for result in segs.values():
        check_frames(result, files)
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber"):
        assert len({result[name].value for result in segs.values()}) == 5
    [phases] = [r for r in segs.values() if len(r.PerFrameFunctionalGroupsSequence) == 3]
    uids = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for group in phases.PerFrameFunctionalGroupsSequence
    ]
    assert uids == [f"{ROOT}.1.{20 + k}" for k in range(3)]


def test_a_file_that_is_there_twice_is_a_reject_and_the_series_whole():
    files = series_files(positions(3), names=range(3))
    files["ct/t copy.dcm"] = files["ct/s1.dcm"]
    segs, [reject] = segs_of(files)
    [result] = segs.values()
    assert len(result.PerFrameFunctionalGroupsSequence) == 3
    assert (reject["path"], reject["what"]) == ("ct/t copy.dcm", "seg")
    assert reject["reason"] == "duplicate-uid" and "ct/s1.dcm" in reject["message"]


def test_slices_that_nothing_can_refer_to_leave_the_others_theirs():
    files = series_files(positions(3), names=range(3))
    files["ct/illegal.dcm"] = slice_file((0, 0, 100), 9, body(1)[0], SOPInstanceUID="ID_9")
    segs, rejects = segs_of(files)
    assert [(row["path"], row["reason"]) for row in rejects] == [("ct/illegal.dcm", "illegal-uid")]
    assert len(next(iter(segs.values())).PerFrameFunctionalGroupsSequence) == 3
    segs, rejects = segs_of(files, mint_uids=True)
    assert not rejects and list(segs) == [f"{ROOT}.4.dcm", "illegal.source.dcm"]
    copy, result = segs["illegal.source.dcm"], segs[f"{ROOT}.4.dcm"]
    instances = result.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert copy.SOPInstanceUID in {item.ReferencedSOPInstanceUID for item in instances}
    assert len(instances) == 4


def test_slices_without_a_frame_of_reference_are_rejects():
    files = series_files(positions(3), FrameOfReferenceUID=None)
    segs, rejects = segs_of(files)
    assert not segs and {row["reason"] for row in rejects} == {"unusable-source"}
    assert len(rejects) == 3


def test_radiographs_are_by_themselves():
    common = {"SeriesInstanceUID": f"{ROOT}.8", "StudyInstanceUID": f"{ROOT}.9", "Modality": ""}
    files = {
        f"{name}.dcm": seg_source(SOPInstanceUID=f"{ROOT}.7.{k}", SeriesNumber=4, **common)
        for k, name in enumerate(("pa", "lat"))
    }
    segs, rejects = segs_of(files)
    assert not rejects and sorted(segs) == ["lat.dcm", "pa.dcm"]
    assert len({result.SeriesNumber for result in segs.values()} | {4}) == 3
    assert len({result.SeriesInstanceUID for result in segs.values()}) == 2
    header = headers_of(files, False)[0]
    assert seg_series.series_key(header) == f"{ROOT}.8"
    dx = headers_of({"a.dcm": seg_source(**common | {"Modality": "DX"})}, False)[0]
    assert seg_series.series_key(dx) == "a.dcm"


def test_it_says_what_made_it():
    for files in ({"a.dcm": seg_source(Modality="OT")}, series_files(positions(2))):
        [result] = segs_of(files)[0].values()
        assert result.SeriesDescription == "Nodule by radlake nodules [lr=1e-3]"
        assert result.ContentDescription == ("p > 0.4, where 0.20% have p > 0.7, image p >= 0.3")
        [segment] = result.SegmentSequence
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert (
            segment.SegmentAlgorithmName == algorithm.AlgorithmName == ("radlake nodules [lr=1e-3]")
        )
        assert algorithm.AlgorithmVersion == result.SoftwareVersions != ""
        for part in ("runs=nodules [lr=1e-3]", f"sha256 of segmenters={'ab' * 32}", "tta=none"):
            assert part in algorithm.AlgorithmParameters
        assert "threshold bottom=0.4" in algorithm.AlgorithmParameters
        color = highdicom.color.CIELabColor.from_dicom_value(
            tuple(segment.RecommendedDisplayCIELabValue)
        )
        np.testing.assert_allclose(color.to_rgb(), seg.FINDINGS["nodule"].rgb, atol=2)
        source = pydicom.dcmread(io.BytesIO(next(iter(files.values()))))
        assert result.SeriesNumber != source.get("SeriesNumber")


def test_long_and_odd_names_of_runs_are_cut_to_what_dicom_allows():
    names = ["a\\b\n" + "ü" * 100, "c"]
    [result] = segs_of(
        {"a.dcm": seg_source(Modality="OT")}, algorithm=seg.algorithm(IDENTITY | {"runs": names})
    )[0].values()
    assert result.SeriesDescription.startswith("Nodule by radlake a_b_üüü")
    assert len(result.SeriesDescription) == 64
    assert len(result.SegmentSequence[0].SegmentAlgorithmName) == 64


def test_a_repeat_gives_the_same_object_and_anything_else_another():
    files = series_files(positions(3))
    stamps = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")

    def content(**options):
        [result] = segs_of(files, **options)[0].values()
        for name in stamps:
            delattr(result, name)
        [equipment] = result.ContributingEquipmentSequence
        del equipment.ContributionDateTime
        return result

    first, again = content(), content()
    assert first == again and first.file_meta == again.file_meta
    others = [
        content(seed=1),
        content(algorithm=seg.algorithm(IDENTITY | {"runs": ["b"]})),
        content(algorithm=ALGORITHM._replace(parameters={"threshold bottom": "0.41"})),
    ]
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber"):
        assert len({result[name].value for result in (first, *others)}) == 4


KINDS = {
    "series": lambda: series_files(positions(4)),
    "tilt": lambda: series_files(positions(4, (0, 1.0, 3.0))),
    "gaps": lambda: series_files(np.array(positions(6))[[0, 1, 4]]),
    "one slice": lambda: series_files(positions(1)),
    "enhanced": lambda: {"a.dcm": enhanced_file(positions(4), body(4))},
    "radiograph": lambda: {"a.dcm": seg_source()},
    "31 rows": lambda: series_files(positions(3), Rows=31, PixelData=bytes(1984)),
}


@pytest.mark.services
@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(kind, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy here; make test-services installs dicom3tools")
    [result] = segs_of(KINDS[kind]())[0].values()
    (tmp_path / "judged.dcm").write_bytes(seg.encode(result))
    command = ["dciodvfy", tmp_path / "judged.dcm"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert "Segmentation" in process.stderr + process.stdout  # it knew what it judged
    assert not [line for line in process.stderr.splitlines() if line.startswith("Error")]
