"""Volumes in MetaImage, NIfTI and NRRD files: voxels and geometry as SimpleITK, which reads them
independently, and streams that are not what their header says."""

import bz2
import gzip
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from makers.marks import exhaustive
from makers.volumes import OBLIQUE, SIXTEEN, headers_of, hu_of, masks_of, volume, write_volume

from lake import Reject
from lake.labels.nodules import Nodule
from lake.sources.volumes import metaimage, series
from lake.sources.volumes import volume as volume_files
from lake.sources.volumes.volume import expand

SUFFIXES = ("mhd", "mha", "nii", "nii.gz", "nrrd", "nhdr")
TURNED = (0, 0, 1, 1, 0, 0, 0, 1, 0)
FRONT = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def hu(path) -> np.ndarray:
    """HU [S, H, W] of the records of a volume's slices."""
    slices = series.stack_slices(headers_of(path))
    return np.array([hu_of(metaimage.read_scan(str(path), one, SIXTEEN)) for one in slices])


def reject_of(path) -> Reject:
    with pytest.raises(Reject) as caught:
        hu(path)
    assert caught.value.message.startswith(str(path))
    return caught.value


def ct(dtype="i2", shape=(4, 7, 5)) -> np.ndarray:
    info = np.iinfo(dtype) if np.dtype(dtype).kind != "f" else np.iinfo("i2")
    low, high = max(info.min, -1024), min(info.max, 3000)
    return np.random.default_rng(3).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("direction", [OBLIQUE, TURNED, FRONT])
def test_voxels_and_nodules_are_where_simpleitk_has_them(tmp_path, suffix, direction):
    image = volume(ct(shape=(12, 40, 30)), direction)
    path = write_volume(image, tmp_path, f"one.two.{suffix}", compress=True)
    (header,) = headers_of(path)
    assert (header.series, header.modality, header.geometry.slices) == ("one.two", "CT", 12)
    again = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(hu(path), sitk.GetArrayFromImage(again))
    geometry = header.geometry
    assert geometry.origin_mm == pytest.approx(again.GetOrigin(), abs=1e-4)
    assert geometry.spacing_mm == pytest.approx(again.GetSpacing(), abs=1e-6)
    assert geometry.direction == pytest.approx(again.GetDirection(), abs=1e-6)
    center = image.TransformContinuousIndexToPhysicalPoint((12.0, 21.0, 6.0))
    selection, _ = series.slices([header], [Nodule(center, 4.0)], 0.0)
    masks = masks_of(selection, 40, 30)
    assert 6 in masks and np.argwhere(masks[6]).mean(axis=0) == pytest.approx([21, 12], abs=0.1)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_of_voxel(tmp_path, suffix, dtype):
    voxels = ct(dtype)
    for compress in (False, True):
        path = write_volume(volume(voxels), tmp_path, f"{compress}.{suffix}", compress)
        np.testing.assert_array_equal(hu(path), voxels.astype(int))


MHA = """ObjectType = Image
NDims = 3
BinaryData = True
{}ElementSpacing = 0.7 0.8 2.5
DimSize = 5 7 4
ElementType = {}
ElementDataFile = LOCAL
"""
MET = {"u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_LONG"}
MET |= {"u4": "MET_ULONG", "f4": "MET_FLOAT", "i8": "MET_LONG_LONG"}


def write_mha(path, voxels, stream=None, **fields):
    lines = "".join(f"{key} = {value}\n" for key, value in fields.items())
    kind = MET[voxels.dtype.newbyteorder("=").str[1:]]
    data = voxels.tobytes() if stream is None else stream
    path.write_bytes(MHA.format(lines, kind).encode() + data)
    return path


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
@pytest.mark.parametrize("dtype", [">i2", ">u2", ">i4", ">f4", ">i8"])
def test_big_endian_metaimages(tmp_path, key, dtype):
    voxels = ct(dtype)
    plain = write_mha(tmp_path / "a.mha", voxels, **{key: "True"})
    packed = zlib.compress(voxels.tobytes())
    fields = {key: "True", "CompressedData": "True", "CompressedDataSize": len(packed)}
    for path in (plain, write_mha(tmp_path / "b.mha", voxels, packed, **fields)):
        np.testing.assert_array_equal(hu(path), voxels.astype(int))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), voxels)


def test_the_place_of_the_voxels_is_where_metaio_looks(tmp_path):
    voxels = ct()
    header_bytes = len(MHA.format("HeaderSize = 300\n", "MET_SHORT"))
    padding = bytes(300 - header_bytes)
    for fields, stream in (
        ({"HeaderSize": -1}, b"something" + voxels.tobytes()),
        ({"HeaderSize": 300}, padding + voxels.tobytes()),
    ):
        path = write_mha(tmp_path / "a.mha", voxels, stream, **fields)
        np.testing.assert_array_equal(hu(path), voxels)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), voxels)
    for size in ("-2", "x", "-1"):
        fields = {"HeaderSize": size, "CompressedData": "True"}
        path = write_mha(tmp_path / "a.mha", voxels, zlib.compress(voxels), **fields)
        assert reject_of(path).reason in ("unreadable-header", "unsupported-mhd")


@pytest.mark.parametrize("container", ["zlib", "gzip"])
def test_a_compressed_metaimage_is_its_stream(tmp_path, container):
    voxels = ct(shape=(4, 7, 5))
    pack = zlib.compress if container == "zlib" else gzip.compress
    stream, content = pack(voxels.tobytes()), voxels.tobytes()

    def path_of(stream, **fields):
        return write_mha(tmp_path / "a.mha", voxels, stream, CompressedData="True", **fields)

    for fields in ({}, {"CompressedDataSize": len(stream)}):
        assert (hu(path_of(stream, **fields)) == voxels).all()
    damaged = stream[:20] + b"\xff" * 9 + stream[29:]
    wrong_sum = stream[:-5] + bytes([stream[-5] ^ 1]) + stream[-4:]
    streams = (damaged, wrong_sum, stream[:-1], stream[:40], b"", pack(content + b"\0"))
    streams += (pack(content[:-1]), pack(bytes(10**6)), bytes(500), content)
    for wrong in streams:
        for fields in ({}, {"CompressedDataSize": len(wrong)}, {"CompressedDataSize": len(stream)}):
            reject = reject_of(path_of(wrong, **fields))
            assert (reject.reason, "compressed data" in reject.message) == ("undecodable", True)


def test_a_damaged_volume_is_expanded_once_for_all_its_slices(tmp_path):
    stream = zlib.compress(bytes(2**25), 9)
    path = write_mha(tmp_path / "a.mha", ct(), stream[:-9], CompressedData="True")
    num_hits = volume_files._expand.cache_info().hits
    for header in series.stack_slices(headers_of(path)):
        with pytest.raises(Reject, match="more than the 280 bytes"):
            metaimage.read_scan(str(path), header, SIXTEEN)
    assert volume_files._expand.cache_info().hits == num_hits + 3


def test_a_detached_stream_is_read_again_when_it_changes(tmp_path):
    voxels = ct()
    path = write_volume(volume(voxels), tmp_path, "a.mhd", compress=True)
    assert (hu(path) == voxels).all()
    (tmp_path / "a.zraw").write_bytes(zlib.compress((voxels + 1).tobytes()))
    assert (hu(path) == voxels + 1).all()
    (tmp_path / "a.zraw").write_bytes(zlib.compress(voxels.tobytes())[:-3])
    assert reject_of(path).reason == "undecodable"


@pytest.mark.parametrize("suffix", ["mhd", "mha", "nii", "nrrd", "nhdr"])
def test_a_plain_file_has_exactly_its_voxels(tmp_path, suffix):
    path = write_volume(volume(ct()), tmp_path, f"a.{suffix}")
    data_path = tmp_path / "a.raw" if suffix in ("mhd", "nhdr") else path
    data = data_path.read_bytes()
    for content in (data[:-1], data + b"\0", data + data[-70:]):
        data_path.write_bytes(content)
        assert reject_of(path).reason == "undecodable"


def test_a_bomb_costs_no_more_than_its_volume(tmp_path):
    voxels = ct()
    stream = zlib.compress(bytes(2**27), 9)
    path = write_mha(tmp_path / "a.mha", voxels, stream, CompressedData="True")
    tiny = gzip.compress(b"") * 50_000
    nii = nifti(voxels)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nii[:352]) + tiny + gzip.compress(nii[352:]))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(nii + bytes(2**27), 1))
    tracemalloc.start()
    assert reject_of(path).reason == "undecodable"
    assert (hu(tmp_path / "a.nii.gz") == voxels).all()
    assert reject_of(tmp_path / "b.nii.gz").reason == "undecodable"
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**23


@pytest.mark.parametrize("line", ["CompressedData = False", "DimSize = 5 7 4"])
def test_a_key_that_comes_twice_is_no_header(tmp_path, line):
    key, value = line.split(" = ")
    path = write_mha(tmp_path / "a.mha", ct(), **{key: value})
    text = path.read_bytes()
    path.write_bytes(text.replace(b"NDims", line.encode() + b"\nNDims", 1))
    assert reject_of(path).reason == "unreadable-header"


def test_an_intensity_function_is_not_ignored(tmp_path):
    path = write_mha(tmp_path / "a.mha", ct("u2"), ElementToIntensityFunctionOffset=-1024)
    assert reject_of(path).reason == "unsupported-mhd"


# --- NIfTI ---


def nifti(voxels, order="<", slope=0.0, intercept=0.0, offset=352, dims=None, **changes) -> bytes:
    """A NIfTI-1 file of voxels [S, H, W], 0.7 x 0.8 x 2.5 mm."""
    header = bytearray(352)
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "u2": 512}
    kind = voxels.dtype.newbyteorder("=").str[1:]
    struct.pack_into(order + "l", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, *(dims or (3, *voxels.shape[::-1], 1, 1, 1, 1)))
    struct.pack_into(order + "2h", header, 70, codes[kind], 8 * voxels.dtype.itemsize)
    struct.pack_into(order + "4f", header, 76, 1, 0.7, 0.8, 2.5)
    struct.pack_into(order + "3f", header, 108, offset, slope, intercept)
    header[123] = 2  # mm
    struct.pack_into(order + "2h", header, 252, 1, 0)  # quaternions of no turn
    header[344:348] = b"n+1\0"
    for place, content in changes.values():
        header[place : place + len(content)] = content
    data = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()
    return bytes(header) + bytes(offset - 352) + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("slope", "intercept"), [(0, 0), (1, -1024), (0.5, 10), (2, 0), (1, 0)])
def test_niftis_are_scaled_as_their_header_says(tmp_path, order, slope, intercept):
    voxels = ct("u2") % 1000
    path = tmp_path / "a.nii"
    path.write_bytes(nifti(voxels, order, slope, intercept, offset=368))
    expected = np.rint(voxels * float(slope or 1) + (intercept if slope else 0))
    np.testing.assert_array_equal(hu(path), expected)
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(expected, np.rint(image))
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(hu(packed), expected)
    path.write_bytes(packed.read_bytes())  # its name says that it is not compressed
    np.testing.assert_array_equal(hu(path), expected)


def test_a_nifti_in_other_units_is_in_mm(tmp_path):
    path = tmp_path / "a.nii"
    metres = (123, b"\1")
    path.write_bytes(nifti(ct(), units=metres))
    assert headers_of(path)[0].geometry.spacing_mm == pytest.approx((700, 800, 2500))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dims": (4, 5, 7, 2, 2, 1, 1, 1)}, "not-a-volume"),
        ({"dims": (2, 5, 28, 1, 1, 1, 1, 1)}, "not-a-volume"),
        ({"dims": (3, 5, 7, -4, 1, 1, 1, 1)}, "unreadable-header"),
        ({"dims": (3, 30_000, 30_000, 4, 1, 1, 1, 1)}, "too-large"),
        ({"magic": (344, b"ni1\0")}, "unsupported-volume"),
        ({"magic": (344, b"\0\0\0\0")}, "unsupported-volume"),
        ({"size": (0, struct.pack("<l", 540))}, "unsupported-volume"),
        ({"kind": (70, struct.pack("<h", 128))}, "not-grey"),
        ({"pixdim": (80, bytes(4))}, "bad-geometry"),
        ({"pixdim": (80, struct.pack("<f", np.nan))}, "bad-geometry"),
        ({"vox_offset": (108, struct.pack("<f", 7))}, "unreadable-header"),
        ({"vox_offset": (108, struct.pack("<f", 1e9))}, "undecodable"),
    ],
)
def test_niftis_that_are_not_read(tmp_path, options, reason):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti(ct(), **options))
    assert reject_of(path).reason == reason
    if options != {"vox_offset": (108, struct.pack("<f", 1e9))}:
        path.write_bytes(gzip.compress(path.read_bytes()))
        assert reject_of(path).reason == reason


def test_four_dimensions_of_which_one_is_1_are_a_volume(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti(ct(), dims=(4, 5, 7, 4, 1, 1, 1, 1)))
    assert (hu(path) == ct()).all()


# --- NRRD ---

NRRD = """NRRD0004
# a comment
type: {type}
dimension: 3
space: {space}
sizes: 5 7 4
space directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)
kinds: domain domain domain
endian: {endian}
encoding: {encoding}
space origin: (10,20,30)
Some key:=a value
{more}
"""


def nrrd(data, **fields) -> bytes:
    defaults = {"type": "short", "space": "left-posterior-superior", "endian": "little"}
    defaults |= {"encoding": "raw", "more": "content: x"}
    return (NRRD.format(**(defaults | fields)) + "\n").encode() + data


def test_nrrds_of_every_layout(tmp_path):
    voxels, path = ct(), tmp_path / "a.nrrd"
    content, big = voxels.tobytes(), voxels.astype(">i2").tobytes()
    for data in (
        nrrd(content),
        nrrd(content).replace(b"\n", b"\r\n", 13),
        nrrd(big, endian="big", type="signed short int"),
        nrrd(gzip.compress(content), encoding="gz"),
        nrrd(gzip.compress(b"skip" + content), encoding="gzip", more="byte skip: 4"),
        nrrd(b"skip" + content, more="byteskip: 4"),
        nrrd(b"anything" + content, more="byte skip: -1"),
    ):
        path.write_bytes(data)
        np.testing.assert_array_equal(hu(path), voxels)
    path.write_bytes(nrrd(content, space="RAS"))
    image = sitk.ReadImage(str(path))
    geometry = headers_of(path)[0].geometry
    assert geometry.origin_mm == image.GetOrigin() == (-10, -20, 30)
    assert geometry.direction == image.GetDirection() == FRONT
    detached = tmp_path / "b.nhdr"
    (tmp_path / "b.raw.gz").write_bytes(gzip.compress(content))
    text = nrrd(b"", encoding="gzip", more="data file: b.raw.gz")
    for data in (text, text.rstrip()):
        detached.write_bytes(data)
        np.testing.assert_array_equal(hu(detached), voxels)
        assert metaimage.data_files("b.nhdr", data) == ["b.raw.gz"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"encoding": "bzip2"}, "unsupported-volume"),
        ({"encoding": "ascii"}, "unsupported-volume"),
        ({"type": "block"}, "unsupported-volume"),
        ({"endian": ""}, "unreadable-header"),
        ({"more": "line skip: 2"}, "unsupported-volume"),
        ({"more": "data file: LIST"}, "unsupported-volume"),
        ({"more": "data file: a%03d.raw 1 4 1"}, "unsupported-volume"),
        ({"more": "data file: ../a.raw"}, "unsupported-volume"),
        ({"more": "data file: none.raw"}, "no-pixels"),
        ({"more": "sizes: 5 7 4"}, "unreadable-header"),
        ({"encoding": "gzip"}, "undecodable"),
    ],
)
def test_nrrds_that_are_not_read(tmp_path, fields, reason):
    path = tmp_path / "a.nrrd"
    data = bz2.compress(ct().tobytes()) if fields.get("encoding") == "bzip2" else ct().tobytes()
    path.write_bytes(nrrd(data, **fields))
    assert reject_of(path).reason == reason


@pytest.mark.parametrize(
    ("line", "instead", "reason"),
    [
        ("dimension: 3", "dimension: 4", "not-a-volume"),
        ("domain domain domain", "vector domain domain", "not-a-volume"),
        ("5 7 4", "5 7 0", "unreadable-header"),
        ("5 7 4", "50000 70000 4", "too-large"),
        ("(0,0,2.5)", "(0,0,0)", "bad-geometry"),
        ("(0,0,2.5)", "(0,1,2.5)", "bad-geometry"),
        ("space directions", "no directions", "bad-geometry"),
        ("NRRD0004", "NRRD", "unreadable-header"),
    ],
)
def test_nrrd_headers_that_are_no_ct(tmp_path, line, instead, reason):
    path = tmp_path / "a.nrrd"
    path.write_bytes(nrrd(ct().tobytes()).replace(line.encode(), instead.encode()))
    assert reject_of(path).reason == reason


# --- sweeps ---


@exhaustive
def test_damaged_volumes_are_rejects_or_what_they_were(tmp_path):
    """A compressed volume has a checksum, so its voxels are right or there are none."""
    rng, voxels = np.random.default_rng(4), ct(shape=(3, 9, 8))
    for suffix in SUFFIXES:
        path = write_volume(volume(voxels), tmp_path, f"a.{suffix}", compress=True)
        data_path = tmp_path / ("a.zraw" if suffix == "mhd" else path.name)
        data = data_path.read_bytes()
        for number in range(400):
            content = bytearray(data)
            for place in rng.integers(0, len(data), rng.integers(1, 4)):
                content[place] = rng.integers(256)
            if number % 5 == 0:
                del content[rng.integers(len(data)) :]
            data_path.write_bytes(content)
            try:
                values = hu(path)
            except Reject:
                continue
            if suffix in ("mhd", "nii.gz"):  # no damage to the header, or one that shows
                assert (values == voxels).all()
            assert (values == hu(path)).all()


@exhaustive
def test_a_stream_is_expanded_whole_however_it_is_cut(tmp_path):
    rng = np.random.default_rng(5)
    for size, level in itertools.product((0, 1, 65_535, 65_536, 65_537, 400_000), (0, 1, 9)):
        content = rng.integers(0, 4, size).astype(np.uint8).tobytes()
        cut = int(rng.integers(0, size + 1))
        members = gzip.compress(content[:cut], level) + gzip.compress(content[cut:], level)
        for stream in (zlib.compress(content, level), members):
            path = tmp_path / "stream"
            path.write_bytes(stream)
            with open(path, "rb") as file:
                assert expand(file, size) == content
            with open(path, "rb") as file, pytest.raises(ValueError, match="compressed data"):
                expand(file, size + 1)
            if size:
                with open(path, "rb") as file, pytest.raises(ValueError, match="more than"):
                    expand(file, size - 1)
