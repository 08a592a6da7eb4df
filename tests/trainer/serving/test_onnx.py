"""export --format onnx: onnxruntime answers as the SavedModel's `pixels`, without TensorFlow."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tensorflow as tf
from makers import trained
from makers.marks import exhaustive
from makers.trained import run_task, workdir_of
from PIL import Image

from beam import predict as beam_predict
from lake import InputError
from lake.labels import rle
from trainer.inference import decision as decisions
from trainer.inference import ensemble, images
from trainer.serving import export, graph, onnx_graph
from trainer.workdir import read_json

pytestmark = pytest.mark.slow  # graphs take seconds to make
ROOT = Path(__file__).parents[3]
UNETPP = {"kind": "unetpp", "filters": 2, "depth": 2, "deep_supervision": True}
MAX_P, MAX_SHARE = 1e-4, 1e-4  # that p, and this share of the mask pixels, may be apart


def session_of(folder: Path):
    """Return a session of onnxruntime, which takes one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "model.onnx", options)


def check_alike(saved, session, pixels: np.ndarray, windows: np.ndarray) -> tuple[int, int]:
    """Compare the answers of a SavedModel and an ONNX file to images [N, H, W]; return the pixels
    of its masks, and those that differ."""
    expected = saved.signatures["pixels"](pixels=tf.constant(pixels), window=tf.constant(windows))
    expected = {name: tensor.numpy() for name, tensor in expected.items()}
    names = [output.name for output in session.get_outputs()]
    inputs = {"pixels": pixels, "window": windows}
    actual = dict(zip(names, session.run(names, inputs), strict=True))
    score = "findings" if "findings" in names else "probability"
    assert actual.keys() == {score} | (set() if score == "findings" else {"mask", "lesion_px"})
    np.testing.assert_allclose(actual[score], expected[score], rtol=0, atol=MAX_P)
    if score == "findings":
        return 0, 0
    masks = np.zeros(pixels.shape, bool)
    for mask, png in zip(masks, expected["mask_bytes"], strict=True):
        if png:
            mask[:] = np.asarray(Image.open(io.BytesIO(png))) > 0
    assert actual["mask"].dtype == bool
    assert (actual["lesion_px"] == actual["mask"].sum(axis=(1, 2))).all()
    return int(masks.sum()), int((masks != actual["mask"]).sum())


def drawn(count: int, height: int, width: int, bits: int, seed: int = 0) -> tuple:
    """Return pixels [N, H, W] of soft clouds, and windows [N, 2] that cut their ends."""
    rng, top = np.random.default_rng(seed), 2**bits - 1
    clouds = tf.image.resize(rng.random((count, 7, 5, 1)), (height, width), "bicubic")[..., 0]
    levels = np.clip(clouds.numpy(), 0, 1) * top
    windows = np.float32([[0.1 * top, (0.6 + 0.4 * rng.random()) * top] for _ in range(count)])
    return levels.astype(np.uint8 if bits == 8 else np.uint16), windows


@pytest.fixture(scope="module")
def onnx_folder(systems, tmp_path_factory) -> Path:
    """The cascade of `systems`, with mirrored views, a calibration, and a classifier that takes
    images of another side."""
    folder = tmp_path_factory.mktemp("onnx") / "cascade"
    run_task("export", *systems["cascade"], "--format=onnx", "--output", folder)
    return folder


def test_onnxruntime_answers_as_the_saved_model(exported, onnx_folder):
    """Images of any size; an empty window has no answer, without harm to the others."""
    saved, session = tf.saved_model.load(str(exported)), session_of(onnx_folder)
    pixels, windows = drawn(4, 97, 120, bits=8)
    windows[1] = 7, 7
    counts = [check_alike(saved, session, pixels, windows)]
    counts += [
        check_alike(saved, session, *drawn(1, *size, bits=8)) for size in ((32, 32), (9, 50))
    ]
    assert 0 < counts[0][0] < 3 * 97 * 120
    assert [different for _, different in counts] == [0, 0, 0]
    assert session.get_inputs()[0].shape == ["N", "H", "W"]


def test_the_description_is_that_of_the_saved_model(exported, onnx_folder):
    """In export.json, and inside the file, which may lose its folder."""
    expected, actual = (read_json(folder / "export.json") for folder in (exported, onnx_folder))
    inside = session_of(onnx_folder).get_modelmeta().custom_metadata_map["export.json"]
    assert json.loads(inside) == actual
    assert {"format": "savedmodel", "decoder": "graph"}.items() <= expected.items()
    assert {"format": "onnx", "decoder": None}.items() <= actual.items()
    pixels = actual["signatures"].pop("pixels")
    assert actual["signatures"] == {}
    assert pixels["inputs"] == expected["signatures"]["pixels"]["inputs"]
    assert pixels["outputs"]["mask"] == ["bool", [None, None, None]]
    others = ("format", "decoder", "signatures", "packages")
    for name in expected.keys() - set(others):
        assert actual[name] == expected[name]
    assert actual.keys() == expected.keys()


def test_the_example_serves_it_without_tensorflow(exported, onnx_folder, phantoms, tmp_path):
    """A PNG, whose pixels are those of the SavedModel's signature of files."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    dicom = sorted((phantoms / "dicom").glob("*.dcm"))[0]
    Image.fromarray(pydicom.dcmread(dicom).pixel_array[:100]).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    command = [sys.executable, ROOT / "docs" / "serve_onnx.py", onnx_folder, "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            with urllib.request.urlopen(address, content) as response:  # noqa: S310
                answer = json.load(response)
            with pytest.raises(urllib.error.HTTPError, match="400") as caught:
                urllib.request.urlopen(address, b"no image")  # noqa: S310
            assert "not-dicom" in json.load(caught.value)["error"]
        finally:
            server.terminate()
    call = tf.saved_model.load(str(exported)).signatures["image"]
    outputs = {name: values[0] for name, values in call(files=tf.constant([content])).items()}
    assert answer["size"] == [100, 128] == [outputs["height"], outputs["width"]]
    assert answer["probability"] == pytest.approx(float(outputs["probability"]), abs=MAX_P)
    texts = answer["rle"], outputs["rle"].numpy().decode()
    assert np.equal(*(rle.decode(text, 100, 128) for text in texts)).mean() >= 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level=all"], "--level all does not go with --format onnx"),
        (["--decoder=tfio"], "--decoder tfio does not go with --format onnx"),
        (["--any_modality"], "--any_modality does not go with --format onnx"),
        ([], "--format onnx needs tf2onnx; pip install 'radlake[onnx]'"),
    ],
)
def test_mistakes_of_a_user(systems, tmp_path, capsys, monkeypatch, arguments, message):
    """Without arguments: tf2onnx is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tf2onnx" else find(name, *rest),
    )
    words = [*systems["deep"], "--format=onnx", "--output", tmp_path / "out", *arguments]
    assert trained.exit_code("export", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_that_no_onnx_file_holds_are_refused():
    onnx_graph.check_size(500_000_000)
    with pytest.raises(InputError, match="2.4 GB, and an ONNX file has at most 2.1 GB"):
        onnx_graph.check_size(600_000_000)


def test_an_operation_that_onnx_lacks_is_one_message():
    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4], tf.float32, "pixels")])
    def function(pixels):
        return {"probability": tf.raw_ops.Igamma(a=pixels, x=pixels)[:, 0, 0]}

    with pytest.raises(InputError, match="cannot say in ONNX 15 .*Igamma.*leave --format out"):
        onnx_graph.convert(function, "{}")


def test_predict_files_refuses_an_onnx_file(onnx_folder, tmp_path, capsys):
    words = [f"--model={onnx_folder}", f"--images={ROOT}/README.md", f"--output={tmp_path}/out"]
    assert beam_predict.main(words) == 2
    assert "an ONNX file, which takes no records" in capsys.readouterr().err


def folders_of(system: ensemble.Ensemble, decision: decisions.Decision, folder: Path) -> tuple:
    """Return the exports of an ensemble in both formats."""
    (folder / "saved").mkdir()
    (folder / "onnx").mkdir()
    export.write(system, decision, folder / "saved", "graph")
    export.write_onnx(system, decision, folder / "onnx")
    return tf.saved_model.load(str(folder / "saved")), session_of(folder / "onnx")


@exhaustive
@pytest.mark.parametrize(
    ("model", "tta", "sections"),
    [
        ({"kind": "unet", "filters": 4, "depth": 2}, ("flip", "1.5"), {}),
        ({"kind": "unet", "filters": 4, "depth": 1}, ("none",), {"data": {"fit": "stretch"}}),
        (UNETPP | {"filters": 4}, ("none",), {}),
    ],
)
def test_a_hundred_images(lake, tmp_path, model, tta, sections):
    """The sizes lie below and above the network's; the pixels have 16 bits."""
    workdir = workdir_of(tmp_path / "run", lake, model, 64, sections, dtype="uint16")
    system = ensemble.load([workdir], tta=tta)
    trained.with_thresholds(system, lake)
    choice = decisions.read_decision(system)
    assert graph.Server(system, choice, images.reader_settings(system).storage).dtype() == tf.uint16
    saved, session = folders_of(system, choice, tmp_path)
    sizes = ((64, 64), (150, 90), (256, 300), (40, 200))
    counts = [
        check_alike(saved, session, *drawn(25, *size, bits=16, seed=seed))
        for seed, size in enumerate(sizes)
    ]
    pixels, different = np.sum(counts, axis=0)
    assert pixels > 0 and different <= MAX_SHARE * sum(25 * h * w for h, w in sizes)


@exhaustive
def test_a_hundred_images_for_a_classifier_of_findings(findings_run, tmp_path):
    system = ensemble.load([findings_run])
    saved, session = folders_of(system, decisions.Decision(), tmp_path)
    check_alike(saved, session, *drawn(100, 130, 90, bits=8))


def test_both_forms_of_the_rule_are_one(systems):
    """Masks of a batch are those of its images."""
    rng = np.random.default_rng(0)
    p, lesion = np.float32(rng.random((3, 20, 30, 1))), np.float32([0.1, 0.5, 0.9])
    choice = decisions.Decision(decisions.Triplet(0.9, 0.1, 0.4), 0.3)
    masks = decisions.masks_of(p, choice, lesion)
    assert masks.shape == (3, 20, 30)
    for mask, image_p, image_lesion in zip(masks, p, lesion, strict=True):
        assert (mask == decisions.mask_of(image_p, choice, image_lesion)).numpy().all()
