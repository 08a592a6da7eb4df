"""Every config: it loads, its network has the size that the original states, it trains, resumes and
is scored when made small, and its step compiles to what a TPU can run."""

import json
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from makers import replica_steps
from makers.marks import exhaustive

from beam import convert as converter
from beam import synthetic_ct
from beam.conversion import options
from trainer import task
from trainer.augmentation import augment
from trainer.config import files, parts
from trainer.config.run import Config, merge
from trainer.models import encoders
from trainer.models.build import build
from trainer.training.step import training_step

ROOT = Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
CT_CONFIG, FINDINGS_CONFIG = "nodule_unet", "findings_small"


def read_content(name: str) -> dict:
    return yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())


# --- headers and docs/configs.md ---


def read_header(name: str) -> str:
    """Return the comment before the first section."""
    lines = (ROOT / "configs" / f"{name}.yaml").read_text().split("\nmodel:")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return "\n".join(line.removeprefix("#").strip() for line in lines)


def commands_in(header: str) -> list[list[str]]:
    """Return the words of each `python -m …`, with continued lines joined."""
    lines = header.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("python -m")]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_opens_with_commands_that_work(name):
    files.load(ROOT / "configs" / f"{name}.yaml", [])
    header, runs = read_header(name), []
    for module, *arguments in commands_in(header):
        if module == "beam.convert":
            assert options.parser().parse_known_args(arguments)[1] == []
            continue
        flags, overrides = task.parser().parse_known_args(arguments)
        if "config" in flags:
            files.load(ROOT / flags.config, overrides)
            runs.append(flags.config)
    assert set(runs) == {f"configs/{name}.yaml"} or (
        name.startswith("demo") and "`make demo`" in header
    )


def test_the_page_about_configs_names_every_config():
    page = (ROOT / "docs" / "configs.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


# --- sizes that an independent source states ---


def numbers_in(weights: list) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


# Trained parameters and statistics, as the originals and the authors of U-Net++ state them.
@pytest.mark.parametrize(
    "name, trained, statistics",
    [
        ("unet_cascade", 7_851_969, 5_888),
        ("unetpp_l3_cascade", 2_235_585, 3_328),
        (CT_CONFIG, 7_846_081, 0),
        ("small_unet", 600_585, 0),
        # 256, 128, 64 and 32 wide, one 3x3 convolution each, and the head; then VGG16's own.
        ("vgg16_frozen", 9 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 32) + 480 + 33, 7_635_264),
    ],
)
def test_a_network_has_the_originals_number_of_parameters(name, trained, statistics):
    section = files.load(ROOT / "configs" / f"{name}.yaml", []).model
    network = build(section.model_copy(update={"weights": None}), side=32)
    actual = numbers_in(network.trainable_weights), numbers_in(network.non_trainable_weights)
    assert actual == (trained, statistics)


# --- configs made small ---


def small(name: str, folder: Path) -> dict:
    """Return the config with a smaller side, batch and number of filters, two epochs and no weights
    of ImageNet."""
    content = read_content(name)
    model, optimizer = content["model"], content.get("optimizer", {})
    changes = {
        "model": at_most({"filters": 8, "max_filters": 16}, model) | other_weights(model, folder),
        "data": {"side": possible_side(model), **small_batch(content)},
        "optimizer": at_most({"cycle_epochs": 1, "swa_epochs": 1}, optimizer),
        "train": {"epochs": 2, "steps_per_call": 1, "device": "cpu"},
    }
    if "stages" in content:
        changes["stages"] = [
            merge(stage, {"data": {"side": 32 * n, **small_batch(stage)}, "train": {"epochs": 2}})
            for n, stage in enumerate(content["stages"], 1)
        ]
    return merge(content, changes)


def at_most(limits: dict[str, int], section: dict) -> dict:
    """Return the numbers of the section that have a limit, within it; a list of filters stays."""
    return {
        field: min(section[field], limit)
        for field, limit in limits.items()
        if isinstance(section.get(field), int)
    }


def small_batch(content: dict) -> dict:
    return {"batch_size": min(content.get("data", {}).get("batch_size", 8), 8)}


def other_weights(model: dict, folder: Path) -> dict:
    """Return random weights in the place of ImageNet's; a frozen encoder needs them in a file."""
    if "weights" not in model:
        return {}
    return {"weights": random_weights(model, folder) if "freeze" in model else None}


def possible_side(model: dict) -> int:
    """Return a side that the network's depth and its encoder can have."""
    if model.get("encoder", "plain") == "plain":
        return 2 * 2 ** max(4, model.get("depth", 4))
    return 96 if parts.ENCODERS[model["encoder"]].min_side > 64 else 32


def random_weights(model: dict, folder: Path) -> str:
    """Return a file of random weights, in the format of keras.applications."""
    row, file = parts.ENCODERS[model["encoder"]], folder / "encoder.weights.h5"
    encoders.build_application(row, possible_side(model), None).save_weights(file)
    return str(file)


def cases() -> list:
    """Return every config, each of which takes up to minutes."""
    return [pytest.param(name, marks=[pytest.mark.slow, exhaustive]) for name in NAMES]


# --- from a lake to scores ---


@pytest.fixture(scope="module")
def ct_lake(tmp_path_factory, key_file) -> Path:
    """The lake of eight bodies with a nodule in one of two lungs: the slices that it reaches."""
    folder = tmp_path_factory.mktemp("ct")
    synthetic_ct.write(folder, volumes=8)
    output = folder / "lakes" / "ct" / "1.0.0"
    # The options of the config's own header.
    arguments = [f"--images={folder}/*.mhd", f"--labels={folder}/annotations.csv"]
    arguments += ["--source=metaimage", "--unlabelled=negative", "--lung_roi", "--empty_slices=0"]
    arguments += [f"--output={output}", f"--deidentify_key_file={key_file}"]
    converter.run([*arguments, "--splits=train=0.5,val=0.25,test=0.25"])
    return output


def read_metrics(workdir: Path) -> dict:
    return json.loads((workdir / "metrics.json").read_text())


def forget_the_last_epoch(workdir: Path) -> None:
    """Leave what a run has that was killed in its last epoch: the checkpoint before it."""
    (workdir / "metrics.json").unlink()
    first, last = sorted(
        {int(re.search(r"\d+", path.name)[0]) for path in workdir.glob("checkpoints/ckpt-*")}
    )
    for path in workdir.glob(f"checkpoints/ckpt-{last}.*"):
        path.unlink()
    (workdir / "checkpoints" / "checkpoint").write_text(
        f'model_checkpoint_path: "ckpt-{first}"\nall_model_checkpoint_paths: "ckpt-{first}"\n'
    )


@exhaustive
def test_the_config_of_volumes_trains_and_is_scored(ct_lake, tmp_path, capsys):
    """In one epoch, with a network of depth 1; test_resume.py resumes."""
    file, workdir = tmp_path / "small.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(small(CT_CONFIG, tmp_path)))
    command = ["train", f"--config={file}", f"--lake={ct_lake}", f"--workdir={workdir}"]
    assert task.main([*command, "--train.epochs=1", "--model.depth=1"]) == 0, capsys.readouterr()
    assert task.main(["evaluate", f"--workdir={workdir}", "--bootstrap=10"]) == 0
    assert len(read_metrics(workdir)["evaluate"]["splits"]) == 2


@pytest.mark.parametrize("name", cases())
def test_it_trains_resumes_and_is_scored(name, request, tmp_path, capsys):
    lakes = {CT_CONFIG: "ct_lake", FINDINGS_CONFIG: "lake_of_findings"}
    lake = request.getfixturevalue(lakes.get(name, "lake"))
    file, workdir = tmp_path / "small.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(small(name, tmp_path)))
    command = ["train", "--config", str(file), "--lake", str(lake), "--workdir", str(workdir)]
    assert task.main(command) == 0, capsys.readouterr().err
    expected = read_metrics(workdir)["last"]
    forget_the_last_epoch(workdir)
    keras.backend.clear_session()
    capsys.readouterr()
    assert task.main(command) == 0, capsys.readouterr().err
    assert "resuming at step" in capsys.readouterr().out
    last = read_metrics(workdir)["last"]
    assert last["val"]["loss"] == pytest.approx(expected["val"]["loss"], rel=1e-3)
    picture = tmp_path / "picture.png"
    assert task.main(["evaluate", "--workdir", str(workdir), "--picture", str(picture)]) == 0
    assert picture.exists() and len(read_metrics(workdir)["evaluate"]["splits"]) == 2


# --- the step that a TPU takes ---


def random_batch(config: Config) -> dict:
    """Return a batch as tf.data gives it; half of the images have a lesion."""
    rng, shape = (
        np.random.default_rng(0),
        (config.data.batch_size, config.data.side, config.data.side, 1),
    )
    masks = np.zeros(shape, np.uint8)
    masks[::2, 4:12, 6:20] = 1
    num_draws = augment.num_draws(config.augment, config.data.side)
    batch = {
        "image": rng.integers(0, 256, shape).astype(np.uint8),
        "mask": masks,
        "window": np.float32([[0, 255]] * len(masks)),
        "label": np.float32(masks.any(axis=(1, 2, 3))),
        "has_mask": np.ones(len(masks), np.float32),
        "weight": np.ones(len(masks), np.float32),
        "uniforms": rng.random((len(masks), num_draws), np.float32),
    }
    if config.findings:
        shape = len(masks), len(config.findings)
        batch["findings"] = rng.integers(-1, 2, shape).astype(np.float32)
    return {name: tf.constant(values) for name, values in batch.items()}


@pytest.fixture
def bfloat16():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_dtype_policy("float32")


# Text of XLA that stands for a bounded dynamic dimension, such as f32[<=8], or leaves the device.
NOT_FOR_A_TPU = r"\[<=|,<=|set-dimension-size|infeed|outfeed|send\(|recv\(|custom-call"


@pytest.mark.parametrize("name", cases())
def test_the_whole_step_compiles_without_dynamic_shapes_and_callbacks(name, bfloat16, tmp_path):
    content = small(name, tmp_path)
    if name == FINDINGS_CONFIG:
        content["model"]["findings"] = ["Edema", "Mass"]
    config = Config.model_validate(content).as_stages()[0]
    # Two images per part: in a loop XLA convolves naively on a CPU, eight take Xception minutes.
    data = config.data.model_copy(update={"batch_size": 2 * config.optimizer.accumulate})
    train = config.train.model_copy(update={"jit": False, "precision": "mixed_bfloat16"})
    config = config.model_copy(update={"data": data, "train": train})
    run = replica_steps.build(config, tf.distribute.get_strategy())
    compiled = tf.function(training_step(run), jit_compile=True, autograph=False)
    batch = random_batch(config)
    text = compiled.experimental_get_compiler_ir(batch)(stage="hlo")
    assert "bf16[" in text and not re.findall(NOT_FOR_A_TPU, text)
    sums = compiled(batch)
    assert sums["nonfinite_steps"] == 0 and sums["gradient_norm"] > 0 and np.isfinite(sums["loss"])
    assert int(run.optimizer.iterations) == 1
