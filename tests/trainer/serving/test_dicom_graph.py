"""DICOM files decoded inside a graph, against the converter on the same bytes: equal, or refused.

`OPTIONS` are the lakes that the graphs below are traced for, once each.
"""

import functools
import io
import itertools
import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
import tensorflow as tf
from makers import dicom_in_graphs, easily_misread
from makers.dicom import WINDOWS, jpeg, make, table
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

from lake import InputError, Reject
from lake.scan import ReaderSettings, Storage
from lake.sources import reader
from trainer.serving.decode import dicom
from trainer.serving.decode.stored_image import StoredImage, refuse
from trainer.serving.graph import DAMAGED, attempt

WIDE, SMALL, DEEP = Storage(8, None), Storage(8, 21, "percentile"), Storage(16, 17, "-50,300")
OPTIONS = (WIDE, SMALL, DEEP, Storage(16, None))
# Those whose graphs most tests share: tracing one costs more than a hundred files in it.
TRACED = (WIDE, SMALL, DEEP)
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
GARBAGE = (
    *(b"", b"\0", b"DICM", bytes(132), bytes(128) + b"DICM", bytes(128) + b"DICM\2\0"),
    *(b"\x08\0" * 3, b"\x08\0" * 30_000, b"\x08\0\x05\0\xff\xff\xff\xff" * 100),
    *(b"\x08\0\x05\0SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff" * 70,),
    *(b"\2\0\x10\0UI\xff\xff1.2", random.Random(0).randbytes(3000)),
)
# Of shared/data/odd_dicom: every plain grey file but those with a table or with pixel padding.
READ = {
    *("6154", "6247", "Fake_MONOHR1.dcm", "MR06.dcm", "XRJPEGProcess1.dcm"),
    *("MR_small_expb.dcm", "chrX1.dcm"),
}


@functools.cache
def graph(storage: Storage) -> Callable:
    """Return what reads a file as an export does, to which a JPEG's damage shows when it
    decodes."""

    def decoded(data):
        image = dicom.stored_image(data, storage)
        levels = tf.cond(
            image.jpeg != "", lambda: tf.io.decode_jpeg(image.jpeg), lambda: tf.zeros(3, tf.uint8)
        )
        with tf.control_dependencies([levels]):
            return tf.nest.map_structure(tf.identity, image)

    def read_file(data):
        return attempt(lambda: decoded(data), refuse(tf.constant(DAMAGED), storage))

    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(read_file, input_signature=signature, autograph=False)


def read(data: bytes, storage: Storage) -> StoredImage:
    """Return what the graph makes of a file, as NumPy arrays."""
    return StoredImage(*(value.numpy() for value in graph(storage)(tf.constant(data))))


def compared(data: bytes, storage: Storage) -> tuple[str, str]:
    """Return (why the graph refuses the file, how its image differs from the converter's)."""
    return dicom_in_graphs.compare(read(data, storage), data, storage)


def assert_equal(data: bytes, storage: Storage, name: object = "") -> None:
    assert compared(data, storage) == ("", ""), (name, storage)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """[23, 40], smooth as an X-ray, so that two decoders of JPEG agree."""
    rows, columns = np.mgrid[:23, :40]
    return (128 + 100 * np.sin(rows / 7) * np.cos(columns / 9)).astype(np.uint8)


@pytest.mark.parametrize(
    "storage",
    [pytest.param(one, marks=[] if one == DEEP else exhaustive) for one in OPTIONS],
    ids=str,
)
def test_every_depth_sign_and_window_is_stored_as_in_a_lake(pixels, storage):
    windows = [WINDOWS[name] for name in ("linear", "two windows", "exact", "no window")]
    rescales = ((1, 0), (-2, "1.5e1"), ("0.25", -7))
    cases = itertools.product(
        (1, 5, 8, 10, 12, 16), (False, True), ("MONOCHROME1", "MONOCHROME2"), windows
    )
    for number, (bits, is_signed, photometric, window) in enumerate(cases):
        values = pixels.astype(int) * 2**bits // 256 - (2 ** (bits - 1) if is_signed else 0)
        dtype = ("i" if is_signed else "u") + ("1" if bits <= 8 and number % 5 else "2")
        syntax = NATIVE[number % 7 % 3]
        slope, intercept = rescales[number % 3]
        file = make(
            values.astype(dtype),
            syntax,
            BitsStored=bits,
            HighBit=bits - 1,
            PhotometricInterpretation=photometric,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            **window,
        )
        assert_equal(file, storage, (bits, dtype, syntax, photometric, window))


def test_bits_above_those_stored_are_no_part_of_a_value(pixels):
    values = pixels.astype(np.uint16) * 257
    for dtype in (np.uint16, np.int16):
        data = make(values.astype(dtype), BitsStored=12, HighBit=11, WindowCenter=9, WindowWidth=99)
        assert_equal(data, WIDE)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"WindowCenter": 90, "WindowWidth": 60},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": -3, "RescaleIntercept": 1024},
        {"ModalityLUTSequence": []},
    ],
    ids=str,
)
def test_a_jpeg_is_kept_or_decoded_as_in_a_lake(pixels, attributes):
    data = make(pixels, JPEGBaseline8Bit, **attributes)
    for storage in TRACED:
        assert_equal(data, storage)
    scan = dicom_in_graphs.convert(data, WIDE)
    assert read(data, WIDE).jpeg == (jpeg(pixels) if scan.encoding == "jpeg-kept" else b"")


def test_fragments_are_joined_whatever_their_offset_table(pixels):
    frame, expected = jpeg(pixels), read(make(pixels, JPEGBaseline8Bit), WIDE).jpeg
    for fragments, has_table in itertools.product((1, 2, 7), (True, False)):
        element = encapsulate([frame], fragments_per_frame=fragments, has_bot=has_table)
        data = make(pixels, JPEGBaseline8Bit, PixelData=element)
        assert_equal(data, WIDE, (fragments, has_table))
        assert read(data, WIDE).jpeg == expected
    padded = make(pixels, JPEGBaseline8Bit, PixelData=encapsulate([frame + bytes(5)]))
    assert_equal(padded, WIDE)


def test_sequences_and_icons_are_walked_over(pixels):
    icon = pydicom.dcmread(io.BytesIO(make(255 - pixels[:8, :8])))
    for syntax, is_open in itertools.product((*NATIVE, JPEGBaseline8Bit), (True, False)):
        dataset = pydicom.dcmread(io.BytesIO(make(pixels, syntax)))
        item = Dataset()
        for element in icon:
            item.add(element)
        item.is_undefined_length_sequence_item = is_open
        outer = Dataset()
        outer.ReferencedImageSequence = [item, Dataset()]
        dataset.IconImageSequence = [item]
        block = dataset.private_block(0x0009, "Private", create=True)
        block.add_new(1, "SQ", [outer])
        items = np.frombuffer(b"\xfe\xff\0\xe0\xff\xff\xff\xff\xfe\xff\x0d\xe0\0\0\0\0", "<u2")
        is_big = syntax == ExplicitVRBigEndian
        block.add_new(2, "UN", items.astype(">u2" if is_big else "<u2").tobytes())
        block.add_new(3, "OB", b"\xe0\x7f\x10\0OB\0\0\x04\0\0\0\1\2\3\4")
        for element in (dataset["IconImageSequence"], dataset[block.get_tag(1)]):
            element.is_undefined_length = is_open
        dataset[block.get_tag(2)].is_undefined_length = is_open
        dataset.save_as(buffer := io.BytesIO())
        assert_equal(buffer.getvalue(), WIDE, (syntax.name, is_open))
        bare = buffer.getvalue()[132:]  # without preamble, and without file meta information
        assert_equal(bare, WIDE)
        if syntax != JPEGBaseline8Bit:
            assert_equal(bare[bare.index(b"\0\x08\0\x18" if is_big else b"\x08\0\x18\0") :], WIDE)


def test_numbers_are_those_that_python_reads(pixels):
    texts = ("1", " 40 ", "+4.5e1", "4E1\0", ".5", "5.", "1.0\\2.0", "\\7", "", "nan", "-Infinity")
    texts += (
        "1e400",
        "1e-400",
        "1_0",
        "0x10",
        "4,5",
        "1 2",
        "1\0002",
        "\u0664\u0662",
        "--1",
        "1d2",
    )
    errors = set()
    for text, storage in itertools.product(texts, (WIDE, DEEP)):
        dataset = pydicom.dcmread(io.BytesIO(make(pixels.astype(np.uint16))))
        for tag in ("WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope"):
            dataset.add_new(tag, "LO", "8")
        dataset["WindowWidth"]._value = dataset["RescaleIntercept"]._value = text
        dataset.save_as(buffer := io.BytesIO())
        error, difference = compared(buffer.getvalue(), storage)
        assert not difference, text
        errors |= {text} if error else set()
    assert errors == {"1_0", "0x10", "4,5", "1 2", "1\0002", "\u0664\u0662", "--1", "1d2"}


def test_what_is_no_plain_grey_image_is_refused_with_the_reason(pixels):
    rgb, frame = np.stack([pixels] * 3, 2), jpeg(pixels)
    lut = {"VOILUTSequence": [table(range(256), 0, 8)]}
    reasons = {
        b"unsupported-syntax": make(pixels, JPEGBaseline8Bit).replace(b".4.50", b".4.80"),
        b"unknown-colour": make(rgb),
        b"multi-frame": make(np.stack([pixels] * 2), frames=2),
        b"no-pixels": make(pixels).replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x09\0US\2\0"),
        b"too-many-bits": make(pixels.astype(np.uint32)),
        b"not-dicom": b"\x89PNG" + bytes(500),
        b"unreadable-header": make(pixels)[:-50],
    }
    for reason, data in reasons.items():
        assert read(data, WIDE).error.split(b": ")[0] == reason
    undecodable = {
        "table": make(pixels, **lut),
        "modality table": make(pixels, ModalityLUTSequence=[table(range(256), 0, 8)]),
        "sigmoid": make(pixels, WindowCenter=1, WindowWidth=2, VOILUTFunction="SIGMOID"),
        "bits": make(pixels, JPEGBaseline8Bit, BitsStored=7, HighBit=6),
        "size": make(pixels[:-1], JPEGBaseline8Bit, PixelData=encapsulate([frame])),
        "rgb": make(pixels, JPEGBaseline8Bit, PixelData=encapsulate([jpeg(rgb)])),
        "end": make(pixels, JPEGBaseline8Bit, PixelData=encapsulate([frame[:-20]])),
        "short": make(pixels, Rows=24),
        "padding": make(pixels).replace(b"MONOCHROME2 ", b" MONOCHROME2"),
        "paired": make(pixels, ExplicitVRBigEndian).replace(
            b"\x7f\xe0\0\x10OB", b"\x7f\xe0\0\x10OW"
        ),
    }
    for name, data in undecodable.items():
        error, difference = compared(data, WIDE)
        assert error.startswith("undecodable: ") and not difference, name
    assert_equal(make(pixels, **lut), DEEP)  # its window is another
    with pytest.raises(InputError, match="clahe"):
        dicom.stored_image(tf.constant(b""), Storage(8, None, clahe=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "storage",
    [pytest.param(one, marks=[] if one in TRACED else exhaustive) for one in OPTIONS],
    ids=str,
)
def test_files_that_are_easily_misread_are_stored_as_in_a_lake_or_refused(storage):
    results = {name: compared(data, storage) for name, (data, _) in easily_misread.files().items()}
    assert {name: difference for name, (_, difference) in results.items() if difference} == {}
    assert sum(not error for error, _ in results.values()) >= 8


@pytest.mark.slow
def test_odd_files_are_stored_as_in_a_lake_or_refused(real_data):
    names = set()
    for path in sorted((real_data / "odd_dicom").iterdir()):
        data = path.read_bytes()
        error, difference = compared(data, WIDE)
        assert not difference, path.name
        if not error:
            names.add(path.name)
            assert_equal(data, SMALL, path.name)
    assert names == READ


def test_real_radiographs_have_the_levels_of_a_lake(real_data):
    paths = sorted((real_data / "siim" / "dicom").glob("*.dcm"))[::90]
    assert len(paths) >= 8
    for path in paths:
        image, scan = (
            read(path.read_bytes(), WIDE),
            dicom_in_graphs.convert(path.read_bytes(), WIDE),
        )
        assert (image.error, tuple(image.window)) == (b"", scan.window)
        levels = np.asarray(Image.open(io.BytesIO(scan.image)))
        assert (np.asarray(Image.open(io.BytesIO(image.jpeg))) == levels).all()


@exhaustive
def test_a_real_radiograph_in_16_bits_too(real_data):
    path = min((real_data / "siim" / "dicom").glob("*.dcm"))
    assert_equal(path.read_bytes(), Storage(16, None))


def damage_differs(pixels, cuts: int, changes: int) -> tuple[list[str], int]:
    """Return (how graph and converter differ on damaged files, number of files that it reads)."""
    attributes = {"WindowCenter": ["40", "50"], "WindowWidth": ["80", "90"], "RescaleSlope": "1.5"}
    wide = pixels.astype(np.uint16) * 16
    files = [
        make(pixels, JPEGBaseline8Bit, **attributes),
        make(pixels, JPEGBaseline8Bit, PhotometricInterpretation="MONOCHROME1"),
        make(wide, ImplicitVRLittleEndian, BitsStored=12, HighBit=11, **attributes),
        make(pixels.astype(np.int8), ExplicitVRLittleEndian, **attributes),
        make(wide, ExplicitVRBigEndian, BitsStored=12, HighBit=11, **attributes),
    ]
    differences, num_read = [], 0
    for number, data in enumerate(files):
        # Behind a changed quantisation or code two decoders of JPEG see different noise.
        header = data.index(b"\xff\xdb") if number < 2 else min(len(data), 900)
        copies = dicom_in_graphs.damaged_copies(data, number, cuts, changes, header)
        for copy, storage in zip(copies, itertools.cycle((WIDE, SMALL)), strict=False):
            error, difference = compared(copy, storage)
            num_read += not error
            differences += [f"file {number}, {storage}: {difference}"] if difference else []
    return differences, num_read


def test_no_damage_stops_the_graph_or_shows_another_image(pixels):
    for data in GARBAGE:
        error, difference = compared(data, WIDE)
        assert error and not difference
    differences, num_read = damage_differs(pixels, cuts=12, changes=40)
    assert differences == [] and num_read > 40


@exhaustive
def test_much_damage_neither(pixels):
    differences, num_read = damage_differs(pixels, cuts=60, changes=1000)
    assert differences == [] and num_read > 750


@exhaustive  # test_export.py asks a whole export so
def test_a_saved_graph_needs_none_of_this_code(pixels, tmp_path):
    module = tf.Module()
    module.stored = graph(WIDE)
    tf.saved_model.save(module, tmp_path / "saved")
    for name, data in (("a", make(pixels)), ("b", make(pixels, JPEGBaseline8Bit)), ("c", b"")):
        (tmp_path / name).write_bytes(data)
    code = (
        "import sys, numpy, tensorflow as tf\n"
        "stored = tf.saved_model.load('saved').stored\n"
        "for name in 'abc':\n"
        "    arrays = stored(tf.io.read_file(name))\n"
        "    values = arrays if isinstance(arrays, (tuple, list)) else arrays.values()\n"
        "    numpy.savez(name, *[value.numpy() for value in values])\n"
        "sys.exit('trainer' in sys.modules or 'lake' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for name in "abc":
        expected = read((tmp_path / name).read_bytes(), WIDE)
        arrays = np.load(tmp_path / f"{name}.npz", allow_pickle=True)
        for value, key in zip(expected, arrays.files, strict=True):
            assert (arrays[key] == value).all()


def test_what_the_lake_did_not_have_is_refused_as_predict_does(pixels):
    lake = {"modalities": {"CR": 9}, "body_parts": {"CHEST": 9}, "secondary_captures": 0}
    capture = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImageType": ["DERIVED", "SECONDARY"]}
    cases = (
        *({"Modality": "US"}, {"Modality": "TYPO"}, {"Modality": "CR", **capture}, {}),
        *({"Modality": "DX"}, {"Modality": "dr"}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}),
        *({"BodyPartExamined": "SKULL"}, {"BodyPartExamined": "C-SPINE"}),
        *({"BodyPartExamined": "THORAX"}, {"BodyPartExamined": "CHEST PA"}),
    )
    read_file = tf.function(
        lambda data: dicom.stored_image(data, WIDE, lakes=(lake,)).error,
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    settings = ReaderSettings(False, "name", WIDE, (lake,))
    reasons = []
    for attributes in cases:
        data = make(pixels, **attributes)
        error, expected = read_file(tf.constant(data)).numpy().decode(), ""
        try:
            reader.read_file(io.BytesIO(data), "x.dcm", len(data), settings, "")
        except Reject as reject:
            expected = reject.reason
        assert error.partition(":")[0] == expected, attributes
        reasons.append(expected)
    assert len(set(reasons)) == 4 and reasons.count("") == 5
