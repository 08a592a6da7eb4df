"""CT volumes: headers and pixels, on volumes written by SimpleITK and pydicom, and on the real
slabs."""

import csv
import io
import math
import random
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from makers import volumes
from makers.lakes import pixels, records
from makers.volumes import OBLIQUE, SIXTEEN, headers_of, hu_of, masks_of

from lake import Reject
from lake.labels import columns
from lake.labels.nodules import Nodule, parse_nodule
from lake.scan import Storage
from lake.sources.volumes import lungs, metaimage, series

MHD = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 2
DimSize = 8 6 4
ElementType = MET_SHORT
ElementDataFile = a.raw
"""


def ramp(slices=9, height=60, width=50) -> np.ndarray:
    """Every voxel differs from its neighbours."""
    return np.arange(slices * height * width, dtype=np.int16).reshape(slices, height, width) - 9000


def reason_of(function, *arguments) -> str:
    with pytest.raises(Reject) as caught:
        function(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("suffix", ["mhd", "mha"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32])
def test_a_slice_has_the_hu_of_the_volume(tmp_path, suffix, compress, kind):
    voxels = ramp().astype(kind)
    path = volumes.write_volume(volumes.volume(voxels), tmp_path, f"one.{suffix}", compress)
    (header,) = headers_of(path)
    assert (header.series, header.patient, header.modality, header.bits) == ("one", "", "CT", 16)
    assert (header.geometry.slices, header.height, header.width) == voxels.shape
    selection, left_out = series.slices([header], None, 0.0)
    assert (len(selection), left_out) == (9, 0)
    for k in (0, 5, 8):
        one, label = selection[k]
        scan = metaimage.read_scan(str(path), one, SIXTEEN)
        assert (one.image_id, one.frame, label.label) == (f"one#{k:04d}", k, -1)
        assert (hu_of(scan) == voxels[k]).all()
        assert scan.slice_mm == pytest.approx(-210.25 + 2.5 * k)
        assert scan.pixel_spacing_mm == pytest.approx((0.9, 0.7))
        assert scan.window == (31768, 33168)


def test_a_slice_outlives_the_volume_that_another_thread_replaces(tmp_path, monkeypatch):
    voxels, to_hu = ramp(), metaimage.to_hu
    paths = [
        volumes.write_volume(volumes.volume(voxels + k), tmp_path, f"{k}.mha", compress=True)
        for k in range(3)
    ]
    slices = [replace(headers_of(path)[0], frame=3) for path in paths]

    def interrupted(values):
        monkeypatch.setattr(metaimage, "to_hu", to_hu)
        # The second frees the first's volume, the third may lie where it lay.
        for path, header in zip(paths[1:], slices[1:], strict=True):
            metaimage.read_scan(str(path), header, SIXTEEN)
        return to_hu(values)

    monkeypatch.setattr(metaimage, "to_hu", interrupted)
    scan = metaimage.read_scan(str(paths[0]), slices[0], SIXTEEN)
    assert (hu_of(scan) == voxels[3]).all()


def test_eight_bits_hold_the_lung_window(tmp_path):
    voxels = np.full((1, 8, 8), -2000, np.int16)
    voxels[0, 0, :3] = -1000, -300, 3000
    path = volumes.write_volume(volumes.volume(voxels), tmp_path)
    scan = metaimage.read_scan(str(path), headers_of(path)[0], Storage(bits=8, max_side=None))
    assert hu_of(scan)[0, :4] == pytest.approx([-1000, -300, 400, -1000], abs=3)


def test_a_nodule_is_four_numbers():
    assert parse_nodule("1 -2.5 3e1 4") == Nodule((1.0, -2.5, 30.0), 4.0)
    for text in ("", "1 2 3", "1 2 3 4 5", "1 2 3 x", "1 2 nan 4", "1 2 3 0", "1 2 3 -4"):
        assert reason_of(parse_nodule, text) == "bad-nodule"


@pytest.fixture
def dicom_slices(tmp_path):
    """Ten CT slices of 16 px, oblique, 3 mm apart, their files in no order; and their HU [10, H,
    W]."""
    hu = np.random.default_rng(1).integers(-1024, 2000, (10, 16, 16), np.int16)
    return volumes.write_dicom_slices(hu, tmp_path), hu


def changed(path, **values):
    dataset = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def test_dicom_slices_become_a_volume(dicom_slices):
    paths, hu = dicom_slices
    headers = [headers_of(path)[0] for path in paths]
    assert headers[0].geometry.spacing_mm[:2] == (0.7, 0.9)
    center = np.array([5.0, -7.0, 11.0]) + np.reshape(OBLIQUE, (3, 3)) @ [0.7 * 8, 0.9 * 6, 3 * 4]
    selection, _ = series.slices(headers, [Nodule(tuple(center), 8.0)], 1.0)
    assert [one.image_id for one, _ in selection] == [f"1.9#{k:04d}" for k in range(10)]
    assert {(one.patient, one.sex, one.age, one.frame) for one, _ in selection} == {
        ("P1", "F", 61, 0)
    }
    assert selection[0][0].geometry.spacing_mm[2] == pytest.approx(3.0, abs=0.001)
    for k, (one, _) in enumerate(selection):
        assert (hu_of(metaimage.read_scan(one.path, one, SIXTEEN)) == hu[k]).all()
    masks = masks_of(selection, 16, 16)
    assert sorted(masks) == [3, 4, 5]
    assert np.argwhere(masks[4]).mean(axis=0) == pytest.approx([6, 8])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"Modality": "MR"}, "not-ct"),
        ({"SeriesInstanceUID": ""}, "no-series"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "not-grey"),
        ({"ImagePositionPatient": None}, "bad-geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "bad-geometry"),
        ({"PixelSpacing": [0, 1]}, "bad-geometry"),
    ],
)
def test_a_dicom_file_that_is_no_slice_is_a_reject(dicom_slices, values, reason):
    path = dicom_slices[0][0]
    changed(path, **values)
    assert reason_of(headers_of, path) == reason


@pytest.mark.parametrize(
    ("line", "instead", "reason"),
    [
        ("NDims = 3", "NDims = 2", "not-a-volume"),
        ("DimSize = 8 6 4", "DimSize = 8 6", "unreadable-header"),
        ("DimSize = 8 6 4", "DimSize = 8 6 0", "unreadable-header"),
        ("DimSize = 8 6 4", "DimSize = 80000 60000 4", "too-large"),
        ("DimSize = 8 6 4", "DimSize = 800 600 40000", "too-large"),
        ("ElementSpacing = 1 1 2", "ElementSpacing = 1 0 2", "bad-geometry"),
        ("ElementSpacing = 1 1 2", "ElementSpacing = 1 1 nan", "bad-geometry"),
        ("1 0 0 0 1 0 0 0 1", "1 0 0 0.3 1 0 0 0 1", "bad-geometry"),
        ("1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 0 0", "bad-geometry"),
        ("MET_SHORT", "MET_SHORT\nElementNumberOfChannels = 3", "not-grey"),
        ("MET_SHORT", "MET_STRING", "unsupported-mhd"),
        ("BinaryData = True", "BinaryData = False", "unsupported-mhd"),
        ("= a.raw", "= LIST\na.raw", "unsupported-mhd"),
        ("= a.raw", "= a%03d.raw 1 4 1", "unsupported-mhd"),
        ("= a.raw", "= ../a.raw", "unsupported-mhd"),
        ("= a.raw", "= /etc/passwd", "unsupported-mhd"),
        ("ElementDataFile = a.raw\n", "", "unreadable-header"),
    ],
)
def test_a_header_that_is_no_ct_is_a_reject(tmp_path, line, instead, reason):
    path = tmp_path / "a.mhd"
    assert line in MHD
    path.write_text(MHD.replace(line, instead, 1))
    assert reason_of(headers_of, path) == reason


def test_an_mhd_names_its_data_file():
    assert metaimage.data_files("x/a.MHD", MHD.encode()) == ["a.raw"]
    assert metaimage.data_files("a.mhd", MHD.replace("a.raw", "LOCAL").encode() + b"\0\1\2") == []


def test_pixels_that_are_not_there_are_a_reject(tmp_path):
    path = tmp_path / "a.mhd"
    path.write_text(MHD)
    (header,) = headers_of(path)  # the listing looks at no data file
    assert reason_of(metaimage.read_scan, str(path), header, SIXTEEN) == "no-pixels"
    (tmp_path / "a.raw").write_bytes(bytes(8 * 6 * 4 * 2 - 1))
    assert reason_of(metaimage.read_scan, str(path), header, SIXTEEN) == "undecodable"
    (tmp_path / "a.raw").write_bytes(bytes(8 * 6 * 4 * 2))
    assert metaimage.read_scan(str(path), header, SIXTEEN).height == 6


@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_damaged_compressed_pixels_are_a_reject(tmp_path, damage):
    path = volumes.write_volume(volumes.volume(ramp()), tmp_path, "one.mha", compress=True)
    (header,) = headers_of(path)
    data = path.read_bytes()
    start = data.index(b"LOCAL\n") + 6
    path.write_bytes(data[:-99] if damage == "cut" else data[: start + 30] + bytes(500))
    assert reason_of(metaimage.read_scan, str(path), header, SIXTEEN) == "undecodable"


@pytest.mark.parametrize("values", [(0.0, 1.0), (-1000.0, np.nan), (-1000.0, 1e6)])
def test_values_that_are_no_hu_are_a_reject(tmp_path, values):
    voxels = np.resize(np.float32(values), (2, 8, 8))
    path = volumes.write_volume(volumes.volume(voxels), tmp_path)
    assert reason_of(metaimage.read_scan, str(path), headers_of(path)[0], SIXTEEN) == "not-hu"


def test_a_garbled_header_is_a_header_or_a_reject():
    random_bytes = random.Random(0)
    for _ in range(200):
        data = bytearray(MHD.encode())
        for _ in range(random_bytes.randint(1, 6)):
            index, kind = random_bytes.randrange(len(data)), random_bytes.randrange(3)
            if kind == 0:
                data[index] = random_bytes.randrange(256)
            elif kind == 1:
                del data[index : index + random_bytes.randint(1, 20)]
            else:
                data[index:index] = random_bytes.choice(
                    [b"\n", b"-", b"999999999", b" = ", b"1e400"]
                )
        try:
            (header,) = metaimage.read_headers(io.BytesIO(bytes(data)), "a.mhd", len(data))
        except Reject:
            continue
        assert header.geometry.slices > 0 and header.height > 0


def test_a_core_of_tissue_in_the_lung_stays_and_the_table_goes():
    hu = np.full((256, 256), -1000)  # of 1.4 mm: air, then a body with two lungs on a table
    hu[40:215, 20:236] = 40
    hu[70:180, 40:115] = hu[70:180, 140:215] = -850
    hu[110:128, 60:78] = 30  # a nodule of 25 mm
    hu[222:226, :] = 300
    region = lungs.region(hu, (1.4, 1.4))
    assert region[70:180, 40:115].all() and region[70:180, 140:215].all()
    assert not region[:50].any() and not region[200:].any() and not region[:, 232:].any()
    assert not lungs.region(np.full((64, 64), 40), (1.0, 1.0)).any()


@pytest.fixture(scope="module")
def slabs(real_data):
    """(path, nodules) of each real slab."""
    nodules = {}
    with open(real_data / "luna" / "annotations.csv") as file:
        for series, *numbers in list(csv.reader(file))[1:]:
            nodules.setdefault(series, []).append(parse_nodule(" ".join(numbers)))
    paths = sorted((real_data / "luna" / "mhd").glob("*.mhd"))
    return [(path, nodules.get(path.stem, [])) for path in paths]


def test_real_nodules_lie_where_the_radiologists_saw_them(slabs):
    assert sum(len(nodules) for _, nodules in slabs) == 2
    for path, nodules in slabs:
        image = sitk.ReadImage(str(path))
        (header,) = headers_of(path)
        selection, _ = series.slices([header], nodules, 0.0)
        masks = masks_of(selection, header.height, header.width)
        assert bool(masks) == bool(nodules)
        for nodule in nodules:
            index = image.TransformPhysicalPointToContinuousIndex(nodule.center_mm)
            k = round(index[2])
            rows, columns = np.nonzero(masks[k])
            spacing = image.GetSpacing()
            assert columns.mean() == pytest.approx(index[0], abs=0.5)
            assert rows.mean() == pytest.approx(index[1], abs=0.5)
            off_mm = (k - index[2]) * spacing[2]
            disc_mm = 2 * math.sqrt(nodule.diameter_mm**2 / 4 - off_mm**2)
            assert len(set(columns)) * spacing[0] == pytest.approx(disc_mm, abs=spacing[0])
            assert len(set(rows)) * spacing[1] == pytest.approx(disc_mm, abs=spacing[1])
            reach_mm = len(masks) * spacing[2]
            assert reach_mm == pytest.approx(nodule.diameter_mm, abs=spacing[2])
            (one,) = (one for one, _ in selection if one.frame == k)
            scan = metaimage.read_scan(str(path), one, SIXTEEN)
            # Aerated lung is below -500 HU.
            assert hu_of(scan)[round(index[1]), round(index[0])] > -200
            roi = metaimage.read_scan(
                str(path), one, Storage(bits=16, max_side=None, lung_roi=True)
            )
            is_kept = hu_of(roi) == hu_of(scan)
            assert is_kept[masks[k]].mean() > 0.99
            assert 0.1 < is_kept.mean() < 0.6


def test_a_folder_of_ct_slices_becomes_one_series(dicom_slices, convert, tmp_path):
    paths, hounsfield = dicom_slices
    center = np.array([5.0, -7.0, 11.0]) + np.reshape(OBLIQUE, (3, 3)) @ [0.7 * 8, 0.9 * 6, 3 * 4]
    rows = [f"1.9,{center[0]},{center[1]},{center[2]},8", "1.77,0,0,0,5"]
    (tmp_path / "nodules.csv").write_text("\n".join([",".join(columns.NODULE_COLUMNS), *rows]))
    output = tmp_path / "x" / "1.0.0"
    options = ("--source=metaimage", "--empty_slices=1", "--max_side=none")
    counts = convert(tmp_path / "*.dcm", tmp_path / "nodules.csv", output, *options)["counts"]
    assert (counts["files"], counts["images"], counts["records"]) == (10, 10, 10)
    assert counts["labels_without_image"] == 1 and counts["grouped_by"] == {"patient": 10}
    rows = sorted(records(output), key=lambda record: record["image_id"])
    assert len({(record["split"], record["shard"]) for record in rows}) == 1
    assert [record["position"] for record in rows] == list(range(10))  # a series in its order
    assert any(record["label"] for record in rows) and len(paths) == 10
    for k, record in enumerate(rows):
        slope, intercept = record["rescale"]
        assert (pixels(record["image"]) * slope + intercept == hounsfield[k]).all()
