"""The loop from the command line: replicas agree, a resumed run goes on, curves and weights are
there."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import config, schedules

ROOT = Path(__file__).parent.parent
SMALL = [
    *("--data.side=32", "--data.batch_size=8", "--model.depth=2", "--model.filters=8"),
    *("--train.epochs=4", "--train.steps_per_call=1", "--train.device=cpu"),
]


def task(*arguments: object, config_name: str = "unetpp") -> subprocess.CompletedProcess:
    """python -m trainer.task in a process of its own: the number of logical devices is fixed at the
    first use."""
    command = [sys.executable, "-m", "trainer.task", *map(str, arguments)]
    if arguments[0] == "train":
        command += ["--config", f"configs/{config_name}.yaml"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """{tag: {step: value}} of a folder of event files."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(value.tag, {})[event.step] = float(
                        tf.make_ndarray(value.tensor)
                    )
    return found


def losses(workdir: Path) -> list[float]:
    return [value for _, value in sorted(scalars(workdir / "train")["loss"].items())]


@pytest.fixture(scope="module")
def trained(lake, tmp_path_factory) -> Path:
    """A finished run of four epochs, two steps each, on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    done = task("train", "--lake", lake, "--workdir", workdir, *SMALL)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.slow
def test_one_two_and_four_replicas_give_the_same_losses(lake, tmp_path):
    # A norm that every gradient exceeds, so that clipping before the reduction would show.
    clipped = [*SMALL, "--optimizer.clip_norm=0.05"]
    found = {}
    for replicas in (1, 2, 4):
        workdir = tmp_path / str(replicas)
        done = task(
            "train", "--lake", lake, "--workdir", workdir, *clipped, f"--train.replicas={replicas}"
        )
        assert done.returncode == 0, done.stderr
        assert f"{8 // replicas} images each a step" in done.stdout
        found[replicas] = losses(workdir)
        norms = scalars(workdir / "train")["gradient_norm"].values()
        assert len(norms) == 12 and min(norms) > 0.05
    assert len(found[1]) == 12 and found[1][-1] < found[1][0]
    assert np.allclose(found[1], found[2], atol=1e-5, rtol=0)
    assert np.allclose(found[1], found[4], atol=1e-5, rtol=0)


BATCH_NORM_ON_TWO_REPLICAS = """
import json, keras, numpy as np, tensorflow as tf
from trainer import distribute, train

strategy = distribute.strategy("cpu", 2, 4)
with strategy.scope():
    layer = keras.layers.BatchNormalization(momentum=0.5)
    network = keras.Sequential([keras.Input((3,)), layer])

def step(batch):
    network(batch, training=True)
    return {"loss": tf.reduce_sum(batch)}

call = train.steps_in_one_call(strategy, step, train.averages_of_replicas(network))
values = np.arange(24, dtype="float32").reshape(8, 3) ** 2
dataset = tf.data.Dataset.from_tensor_slices(values).batch(4)
call(iter(strategy.experimental_distribute_dataset(dataset)), tf.constant(2))
means = strategy.experimental_local_results(layer.moving_mean.value)
print(json.dumps([mean.numpy().tolist() for mean in means]))
"""


@pytest.mark.slow
def test_plain_batch_norm_statistics_are_averaged_over_replicas():
    done = subprocess.run(
        [sys.executable, "-c", BATCH_NORM_ON_TWO_REPLICAS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout.splitlines()[-1]))  # [replicas, 3]
    # Two batches of four: each replica sees the mean of its own half, and remembers by halves.
    halves = (np.arange(24.0).reshape(2, 2, 2, 3) ** 2).mean(axis=2)  # [batch, replica, 3]
    expected = (0.25 * halves[0] + 0.5 * halves[1]).mean(axis=0)
    assert found.shape == (2, 3) and np.allclose(found, expected)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_end(lake, trained, tmp_path):
    import shutil

    workdir = tmp_path / "stopped"
    shutil.copytree(trained, workdir)
    # As if killed after the third epoch: the fourth epoch's checkpoint and curve are gone.
    (workdir / "checkpoints" / "checkpoint").unlink()
    assert list((workdir / "checkpoints").glob("ckpt-9.*"))
    for path in (workdir / "checkpoints").glob("ckpt-12.*"):
        path.unlink()
    (workdir / "checkpoints" / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-9"\nall_model_checkpoint_paths: "ckpt-9"\n'
    )
    shutil.rmtree(workdir / "train")
    done = task("train", "--lake", lake, "--workdir", workdir, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 9" in done.stdout
    assert np.allclose(losses(workdir), losses(trained)[9:], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_repeating_a_finished_command_does_nothing_more(lake, trained):
    before = losses(trained)
    done = task("train", "--lake", lake, "--workdir", trained, *SMALL)
    assert (
        done.returncode == 0
        and "all 4 epochs are done" in done.stdout
        and losses(trained) == before
    )


@pytest.mark.slow
def test_tensorboard_has_both_curves_under_the_same_tags_and_panels(trained):
    train, val = scalars(trained / "train"), scalars(trained / "val")
    shared = {"loss", "auc", "dice/mean", "dice/positives", "dice/all_empty"}
    shared |= {"ap", "iou", "sensitivity", "specificity"}  # ppv: where something is predicted
    assert shared <= train.keys() and shared <= val.keys()
    assert {"learning_rate", "images_per_second"} <= train.keys()
    assert list(val["dice/mean"]) == [3, 6, 9, 12]
    panels = [
        value
        for path in (trained / "val").glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    ]
    assert len(panels) == 4
    width, height, png = tf.make_ndarray(panels[0].tensor)
    assert int(width) > 500 and png.startswith(b"\x89PNG")


@pytest.mark.slow
def test_evaluate_scores_a_run_and_draws_it(trained, tmp_path):
    picture = tmp_path / "picture.png"
    done = task("evaluate", "--workdir", trained, "--picture", picture)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {"last", "evaluate"} <= metrics.keys()
    for split in ("val", "test"):
        scores = metrics["evaluate"]["splits"][split]
        assert 0 <= scores["dice_mean"] <= 1 and scores["without_mask"] == 0
        assert f"{scores['dice_mean']:.4f}" in done.stdout
    val = metrics["evaluate"]["splits"]["val"]
    assert (
        val["dice_mean"] >= val["dice_all_empty"] - 1e-9
    )  # an area threshold can empty every mask
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_evaluate_with_mirror_images_has_scores_of_its_own(trained):
    done = [task("evaluate", "--workdir", trained, f"--tta={tta}") for tta in ("none", "flip")]
    assert [one.returncode for one in done] == [0, 0], done
    assert "with its mirror images" in done[1].stdout
    metrics = json.loads((trained / "metrics.json").read_text())
    plain, mirrored = metrics["evaluate"], metrics["evaluate_tta_flip"]
    assert (plain["tta"], mirrored["tta"]) == ("none", "flip")
    assert plain["splits"] != mirrored["splits"]


@pytest.mark.slow
def test_evaluate_scores_the_smaller_network_in_a_deeper_one(trained):
    done = task("evaluate", "--workdir", trained, "--prune", 1)
    whole = json.loads((trained / "metrics.json").read_text()).get("evaluate")
    assert done.returncode == 0, done.stderr
    # Three blocks and an upsampling of 8 and 16 filters: 6,425; their norms have 2 a filter more.
    assert "pruned to L1: 6,553 parameters" in done.stdout
    pruned = json.loads((trained / "metrics.json").read_text())["evaluate_l1"]
    assert pruned["splits"]["val"]["images"] == 8 and pruned != whole
    refused = task("evaluate", "--workdir", trained, "--prune", 3)
    assert refused.returncode == 2 and "prune=3: expected 1 to model.depth=2" in refused.stderr


@pytest.mark.slow
def test_a_classifier_trains_through_the_same_loop(lake, tmp_path):
    options = ["--model.encoder=plain", "--model.filters=8", "--model.depth=2", "--data.side=32"]
    options += ["--data.batch_size=8", "--train.epochs=1"]
    done = task(
        "train", "--lake", lake, "--workdir", tmp_path / "run", *options, config_name="classifier"
    )
    assert done.returncode == 0, done.stderr
    assert "auc" in scalars(tmp_path / "run" / "val")
    scored = task("evaluate", "--workdir", tmp_path / "run", "--picture", tmp_path / "p.png")
    assert scored.returncode == 0 and "auc" in scored.stdout, scored.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--train.replicas=3"],
            "data.batch_size=8 does not divide over 3 replicas; use a multiple of 3",
        ),
        (
            ["--model.depht=3", "--train.device=npu"],
            "model.depht: unknown key; did you mean depth?",
        ),
        (["--lake", "/nowhere/x/1.0.0"], "/nowhere/x/1.0.0: no manifest.json"),
        (["--data.val_split=holdout"], "no records in split 'holdout'"),
        (["--data.batch_size=800"], "batch_size=800, but the training split has"),
        (["--config", "/nowhere.yaml"], "no such file"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(lake, tmp_path, options, message):
    command = [
        "train",
        "--config",
        "configs/unetpp.yaml",
        "--lake",
        lake,
        "--workdir",
        tmp_path / "run",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.task", *map(str, command), *SMALL, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_lake_in_the_same_workdir_is_refused(phantoms, convert, trained, tmp_path):
    other = tmp_path / "phantoms" / "1.0.0"
    convert(phantoms / "dicom" / "*.dcm", phantoms / "train-rle.csv", other)
    done = task("train", "--lake", other, "--workdir", trained, *SMALL)
    assert done.returncode == 2 and "other shards in" in done.stderr


@pytest.mark.slow
def test_a_lake_without_masks_trains_no_segmenter(phantoms, convert, tmp_path):
    names = sorted(path.stem for path in phantoms.glob("dicom/*.dcm"))
    csv_path = tmp_path / "classes.csv"
    csv_path.write_text("\n".join(f"{name},{n % 2}" for n, name in enumerate(names)) + "\n")
    lake = tmp_path / "classes" / "1.0.0"
    convert(phantoms / "dicom" / "*.dcm", csv_path, lake)
    done = task("train", "--lake", lake, "--workdir", tmp_path / "run", *SMALL)
    assert done.returncode == 2 and "no mask with a lesion to learn from" in done.stderr


@pytest.mark.slow
def test_another_config_in_the_same_workdir_is_refused(lake, trained):
    done = task("train", "--lake", lake, "--workdir", trained, *SMALL, "--model.depth=1")
    assert done.returncode == 2 and "model.depth: 2 -> 1" in done.stderr


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU")
def test_a_gpu_that_is_missing_is_an_error():
    from lake import InputError
    from trainer import distribute

    with pytest.raises(InputError, match="sees no GPU"):
        distribute.strategy("gpu", None, 8)


def test_schedule_is_a_warm_up_and_a_cosine():
    settings = config.Optimizer(learning_rate=1e-3, warmup_epochs=0)
    schedule = schedules.learning_rate(settings, epochs=40, per_epoch=1)
    for step, rate in ((0, 1e-3), (10, 8.535534e-4), (20, 5e-4), (39, 1.541333e-6)):
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-4)
    warm = schedules.learning_rate(settings.model_copy(update={"warmup_epochs": 2}), 10, 5)
    assert float(warm(0)) == 0 and float(warm(5)) == pytest.approx(5e-4)
    assert float(warm(10)) == pytest.approx(1e-3) and float(warm(50)) == pytest.approx(0, abs=1e-9)


def test_biases_and_norms_do_not_decay():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(2, name="a"),
            keras.layers.BatchNormalization(name="b"),
        ]
    )
    optimizer = schedules.build_optimizer(config.Optimizer(), 1, 1)
    optimizer.build(network.trainable_variables)
    decays = {v.name: optimizer._use_weight_decay(v) for v in network.trainable_variables}
    assert decays == {"kernel": True, "bias": False, "gamma": False, "beta": False}
