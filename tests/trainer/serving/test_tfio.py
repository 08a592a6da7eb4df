"""export --decoder tfio, in the environment of requirements/tfio.txt (make test-tfio):
its pixels are the converter's, its masks predict's."""

import io
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from makers import easily_misread
from makers.dicom import PACKAGED, deflate, make
from makers.dicom_in_graphs import compare, damaged_copies
from makers.tfio_stored import STORAGE
from makers.trained import read_predictions, run_task
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lake.labels import rle
from trainer.serving.decode.stored_image import StoredImage

pytestmark = [pytest.mark.slow, pytest.mark.tfio]
ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-tfio" / "bin" / "python"
COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1)
# A client with none of our code; arguments: a SavedModel and the names of files.
CLIENT = """
import json, pathlib, sys
import tensorflow as tf
from tensorflow_io.python.ops import core_ops
dir(core_ops)  # loads its operations

folder, *paths = sys.argv[1:]
files = tf.constant([pathlib.Path(path).read_bytes() for path in paths])
outputs = tf.saved_model.load(folder).signatures["dicom"](files=files)
names = ("probability", "lesion_px")
answers = {name: outputs[name].numpy().tolist() for name in names}
answers |= {name: [text.decode() for text in outputs[name].numpy()] for name in ("rle", "error")}
assert not {"lake", "trainer", "beam"} & set(sys.modules)
print(json.dumps(answers))
"""


def there(*arguments) -> str:
    """What Python of the other environment prints, run in the checkout."""
    assert PYTHON.exists(), "no second environment: make test-tfio"
    process = subprocess.run([PYTHON, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def compressed(data: bytes, syntax: str, **options) -> bytes:
    """An uncompressed file in another transfer syntax."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        words = dataset.pixel_array.view(f"u{dataset.BitsAllocated // 8}")
        frame = lossless_jpeg(words & (2**dataset.BitsStored - 1), dataset.BitsStored)
        dataset.PixelData = encapsulate([frame])
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    else:
        dataset.compress(syntax, generate_instance_uid=False, **options)
    dataset.save_as(buffer := io.BytesIO(), enforce_file_format=True)
    return buffer.getvalue()


def lossless_jpeg(words: np.ndarray, bits: int) -> bytes:
    """T.81 annex H, from the left neighbour (selection value 1), each category a code of five
    bits."""
    before = np.empty(words.shape, int)
    before[:, 1:], before[1:, 0], before[0, 0] = words[:, :-1], words[:-1, 0], 2 ** (bits - 1)
    differences = (words - before + 2**15) % 2**16 - 2**15
    text = ""
    for difference in differences.ravel().tolist():
        category = abs(difference).bit_length()
        more = difference if difference > 0 else difference + 2**category - 1
        text += f"{category:05b}" + (f"{more:0{category}b}" if 0 < category < 16 else "")
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    size = b"".join(side.to_bytes(2, "big") for side in words.shape)
    header = b"\xff\xc3\0\x0b" + bytes([bits]) + size + b"\1\1\x11\0"
    codes = b"\xff\xc4\0\x24\0" + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17))
    return b"\xff\xd8" + header + codes + b"\xff\xda\0\x08\1\1\0\1\0\0" + scan + b"\xff\xd9"


def pixels_of(bits: int, is_signed: bool, dtype: str) -> np.ndarray:
    """[33, 40], all values from the lowest to the highest."""
    rows, columns = np.mgrid[:33, :40]
    unit = (1 + np.sin(rows / 7) * np.cos(columns / 9)) / 2
    unit[0, :2] = 0, 1
    values = np.rint(unit * (2**bits - 1)) - (2 ** (bits - 1) if is_signed else 0)
    return values.astype(dtype)


def lossless() -> Iterator[tuple[str, bytes]]:
    kinds = ((8, "u1"), (10, "u2"), (12, "i2"), (16, "u2"), (16, "i2"), (8, "i1"))
    for number, (bits, dtype) in enumerate(kinds):
        is_signed = dtype[0] == "i"
        for syntax in COMPRESSED:
            data = make(
                pixels_of(bits, is_signed, dtype),
                BitsStored=bits,
                HighBit=bits - 1,
                PhotometricInterpretation=f"MONOCHROME{1 + number % 2}",
                RescaleSlope=(1, -2, "0.25")[number % 3],
                RescaleIntercept=(0, 15, -7)[number % 3],
                **({"WindowCenter": 40, "WindowWidth": 80} if number % 2 else {}),
            )
            yield f"{syntax.keyword} {bits} {dtype}", compressed(data, syntax)


def lossy() -> Iterator[tuple[str, bytes]]:
    deep = make(pixels_of(12, False, "u2"), BitsStored=12, HighBit=11)
    yield "near lossless", compressed(deep, JPEGLSNearLossless, jls_error=3)
    yield "JPEG 2000", compressed(deep, JPEG2000, j2k_psnr=[60])
    baseline = make(pixels_of(8, False, "u1"), JPEGBaseline8Bit)
    yield "extended", baseline.replace(JPEGBaseline8Bit.encode(), JPEGExtended12Bit.encode())


def refused_files() -> Iterator[tuple[str, bytes]]:
    """By the reason."""
    plain = pixels_of(10, False, "u2")
    deep = {"BitsStored": 10, "HighBit": 9}
    rgb = make(np.stack([pixels_of(8, False, "u1")] * 3, 2))
    yield "unsupported-syntax", deflate(b"")
    yield "unknown-colour", compressed(rgb, RLELossless)
    yield "multi-frame", compressed(make(np.stack([plain] * 2), frames=2), RLELossless)
    for syntax in COMPRESSED:
        whole = compressed(make(plain, **deep), syntax)
        dataset = pydicom.dcmread(io.BytesIO(whole))
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        dataset.PixelData = encapsulate([frame[:-40]])
        dataset.save_as(short_file := io.BytesIO())
        rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, len(plain))
        other = whole.replace(rows, rows[:-2] + struct.pack("<H", len(plain) + 1))
        yield f"undecodable {syntax.keyword} size", other
        yield f"undecodable {syntax.keyword} cut", short_file.getvalue()


def damage() -> Iterator[tuple[str, bytes]]:
    """Before the codestream, where converter and graph read the same; run lengths are no code."""
    for syntax in COMPRESSED:
        data = compressed(make(pixels_of(12, True, "i2"), BitsStored=12, HighBit=11), syntax)
        header = data.index(b"\xe0\x7f\x10\0OB") + 20
        header = len(data) if syntax == RLELossless else header
        for number, copy in enumerate(damaged_copies(data, 0, cuts=5, changes=30, header=header)):
            yield f"{syntax.keyword} {number}", copy


@pytest.fixture(scope="module")
def stored_images(tmp_path_factory) -> dict[str, tuple[bytes, StoredImage]]:
    """Return a file, and what the graph makes of it, by kind and name."""
    kinds = {
        "lossless": lossless(),
        "lossy": lossy(),
        "refused": refused_files(),
        "damage": damage(),
        "misread": ((name, data) for name, (data, _) in easily_misread.files().items()),
    }
    files = {f"{kind} {name}": data for kind, pairs in kinds.items() for name, data in pairs}
    folders = [PACKAGED]
    if real := os.environ.get("RADLAKE_REAL_DATA"):
        folders.append(Path(real) / "odd_dicom")
    odd = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    files |= {f"odd {path}": path.read_bytes() for path in odd}
    folder = tmp_path_factory.mktemp("files")
    for number, data in enumerate(files.values()):
        (folder / str(number)).write_bytes(data)
    there("tests/makers/tfio_stored.py", folder, f"{folder}.npz")
    arrays = np.load(f"{folder}.npz")
    return {
        name: (
            data,
            StoredImage(*(arrays[f"{number} {field}"][()] for field in StoredImage._fields)),
        )
        for number, (name, data) in enumerate(files.items())
    }


def comparisons(stored_images: dict, kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield (name, why it is refused, how it differs from the converter's) of each file."""
    for name, (data, image) in stored_images.items():
        if name.startswith(kind):
            # Two decoders of a discrete cosine transform.
            is_near = JPEGExtended12Bit.encode() in data[:2000]
            yield name, *compare(image, data, STORAGE, levels_apart=int(is_near))


def test_pixels_are_the_converters(stored_images):
    for kind, minimum in (("lossless", 30), ("lossy", 3)):
        rows = list(comparisons(stored_images, kind))
        assert len(rows) >= minimum
        assert [one for one in rows if one[1:] != ("", "")] == []


def test_what_it_cannot_decode_is_refused_with_the_reason(stored_images):
    for name, error, difference in comparisons(stored_images, "refused"):
        assert error.startswith(f"{name.split()[1]}: ") and not difference, name


def test_odd_and_damaged_files_are_stored_as_in_a_lake_or_refused(stored_images):
    for kind, minimum in (("odd", 20), ("damage", 50), ("misread", 15)):
        rows = list(comparisons(stored_images, kind))
        assert [one for one in rows if one[2]] == []
        assert sum(not error for _, error, _ in rows) >= minimum, kind


def recoded(phantoms: Path) -> Iterator[bytes]:
    """Yield files of 8 and 12 bits in every lossless syntax."""
    for number, path in enumerate(sorted((phantoms / "dicom").glob("*.dcm"))[:10]):
        levels = pydicom.dcmread(path).pixel_array
        depth = {"BitsStored": 12, "HighBit": 11} if number % 2 else {}
        levels = levels.astype(np.uint16) * 16 if number % 2 else levels
        yield compressed(make(levels, **depth), COMPRESSED[number % len(COMPRESSED)])


def test_an_export_answers_there_as_predict_does_here(systems, phantoms, tmp_path):
    files, options = tmp_path / "files", systems["deep"]
    files.mkdir()
    for number, data in enumerate(recoded(phantoms)):
        (files / f"{number}.dcm").write_bytes(data)
    run_task("predict", *options, "--input", files, "--output", tmp_path / "predicted")
    words = ["--decoder", "tfio", "--output", tmp_path / "exported"]
    there("-m", "trainer.task", "export", *options, *words)
    description = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert description["decoder"] == "tfio" and description["packages"]["tensorflow-io"] == "0.37.1"
    (files / "broken.dcm").write_bytes(data[:-100])
    paths = sorted(files.iterdir())
    outputs = json.loads(there("-I", "-c", CLIENT, tmp_path / "exported", *paths).splitlines()[-1])
    answers = {path.stem: answer for path, *answer in zip(paths, *outputs.values(), strict=True)}
    assert answers.pop("broken")[-1].startswith("unreadable-header: ")
    expected = read_predictions(tmp_path / "predicted")
    assert sorted(answers) == sorted(expected)
    for image_id, (probability, lesion_px, text, error) in answers.items():
        their_text, their_probability, _ = expected[image_id]
        masks = [rle.decode(one, 128, 128) for one in (text, their_text)]
        assert error == "" and lesion_px == np.count_nonzero(masks[0])
        assert probability == pytest.approx(their_probability, abs=1e-5)
        assert (masks[0] == masks[1]).mean() >= 0.9999
    assert sum(lesion_px > 0 for _, lesion_px, *_ in answers.values()) >= 2
