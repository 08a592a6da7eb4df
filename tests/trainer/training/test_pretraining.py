"""Pretraining: a whole U-Net or U-Net++ as a classifier of class folders, then as a segmenter."""

import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pydicom
import pytest
from makers.marks import exhaustive
from makers.networks import images, plain, plus, with_random_weights
from makers.runs import losses, scalars, task
from PIL import Image

from beam import convert
from lake import InputError
from trainer.config import required
from trainer.config.run import Config
from trainer.models import weight_files
from trainer.models.build import build
from trainer.training import stages

SMALL = [
    *("--data.side=32", "--data.batch_size=8", "--model.depth=2", "--model.filters=8"),
    *("--train.epochs=1", "--train.steps_per_call=1", "--train.device=cpu"),
]


def same_weights(one: keras.Layer, other: keras.Layer) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("section", [plain, plus])
def test_all_but_the_last_layer_goes_into_a_segmenter(section, classes, tmp_path, capsys):
    file, options = str(tmp_path / "classes.weights.h5"), {"norm": "batch", "dropout": 0.1}
    source = with_random_weights(build(section(**options, classes=classes), 16))
    source.save_weights(file)
    capsys.readouterr()
    segmenter = build(section(**options, weights=file), 16)
    head = "head" if section is plain else "head_2"
    layers = weight_files.layers_with_weights(segmenter)
    for (name,), layer in layers.items():
        assert name == head or same_weights(layer, source.get_layer(name))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"weights {file}: {len(layers) - 1} of {len(layers)} layers loaded",
        f"  not in the file: {head}",
        "  in the file only: class_head",
    ]
    # The class logits are of the mean of what the segmenter's head sees.
    head_input = keras.Model(segmenter.input, segmenter.get_layer(head).input)
    features = np.asarray(head_input(images(16))).mean(axis=(1, 2))  # [2, 8]
    kernel, bias = source.get_layer("class_head").get_weights()
    assert kernel.shape == (8, 1 if classes == 2 else 3)
    assert np.allclose(source(images(16)), features @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_heads_of_deep_supervision_wait_for_the_segmenter():
    network = build(plus(classes=2, deep_supervision=True), 16)
    assert network.output.shape == (None, 1)
    assert [layer.name for layer in network.layers if "head" in layer.name] == ["class_head"]


def test_another_number_of_classes_than_the_lakes_is_refused():
    config = Config.model_validate({"model": {"kind": "unetpp", "classes": 2}})
    required.check_classes({}, "lakes/x", config)
    lake = {"classes": ["air", "bone", "water"]}
    with pytest.raises(InputError, match="3 classes: 0 air, 1 bone, 2 water; model.classes=2 sho"):
        required.check_classes(lake, "lakes/x", config)
    config = Config.model_validate({"model": {"kind": "classifier", "classes": 3}})
    required.check_classes(lake, "lakes/x", config)
    with pytest.raises(InputError, match="lakes/x has 2 classes; model.classes=3 should be 2"):
        required.check_classes({}, "lakes/x", config)


@pytest.fixture(scope="module")
def class_lake(phantoms, key_file, tmp_path_factory) -> Callable[[int], Path]:
    """Return a function: number of classes, 2 or 3 -> a lake of the phantoms' PNGs, which are
    normal or have a pneumothorax; the third class are negatives."""
    lesions = {}
    for row in (phantoms / "train-rle.csv").read_text().splitlines()[1:]:
        name, text = row.split(", ")
        lesions[name] = text != "-1"
    root = tmp_path_factory.mktemp("classes")

    @functools.cache
    def lake_of(classes: int) -> Path:
        for path in phantoms.glob("dicom/*.dcm"):
            pixels = pydicom.dcmread(path).pixel_array
            images = {"pneumothorax" if lesions[path.stem] else "normal": pixels}
            if classes == 3:
                images["negative"] = 255 - pixels
            for class_name, image in images.items():
                folder = root / str(classes) / class_name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{path.stem}.png")
        output = root / "lakes" / f"of{classes}" / "1.0.0"
        arguments = [f"--images={root}/{classes}/*/*.png", f"--output={output}"]
        arguments += ["--source=images", "--class_folders", f"--deidentify_key_file={key_file}"]
        convert.run([*arguments, "--splits=train=0.6,val=0.2,test=0.2"])
        return output

    return lake_of


def pretrain(class_lake: Callable, classes: int, workdir: Path) -> set[str]:
    """The command of the first stage; returns the tags that both its curves have."""
    options = ["--lake", class_lake(classes), "--workdir", workdir, f"--model.classes={classes}"]
    process = task("train", *options, *SMALL)
    assert process.returncode == 0, process.stderr
    assert f"unetpp of {classes} classes with " in process.stdout
    return scalars(workdir / "train").keys() & scalars(workdir / "val").keys()


@exhaustive
def test_from_two_class_folders_to_a_segmenter(lake, class_lake, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert pretrain(class_lake, 2, first) == {"loss", "auc", "ap"}
    weights = f"--model.weights={first}/best.weights.h5"
    process = task("train", "--lake", lake, "--workdir", second, weights, *SMALL)
    assert process.returncode == 0, process.stderr
    # Six blocks of four layers with weights, three upsamplings; the two heads are the segmenter's.
    assert (
        "27 of 29 layers loaded\n  not in the file: head_1, head_2\n"
        "  in the file only: class_head\n"
    ) in process.stdout
    assert np.isfinite(losses(second)).all() and len(losses(second)) == 3


@exhaustive
def test_three_class_folders_have_their_own_scores(class_lake, tmp_path):
    assert pretrain(class_lake, 3, tmp_path / "run") == {"loss", "auc", "accuracy"}
    process = task("evaluate", "--workdir", tmp_path / "run", "--picture", tmp_path / "p.png")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.partition("[ ]:")[0].splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["val", "images", "accuracy", "AUC"]
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["images"] == ["16", "16"]
    assert all(0 <= float(cells[name][0]) <= 1 for name in ("accuracy", "AUC"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_lake_says_how_many_classes_there_are(class_lake, tmp_path):
    model = {"kind": "unetpp", "classes": 2}
    config = Config.model_validate({"model": model, "lake": str(class_lake(3))})
    message = "3 classes: 0 negative, 1 normal, 2 pneumothorax; model.classes=2 should be 3"
    with pytest.raises(InputError, match=message):
        stages.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
