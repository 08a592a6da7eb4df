"""The loop from the command line: replicas agree, a resumed run goes on, curves and weights are
there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers import marks, runs
from makers.runs import ROOT, SMALL

from trainer import task as command_line
from trainer.config.score_names import HALF_NETWORK, TRAINING

UNETPP = ROOT / "configs" / "unetpp.yaml"


def refusal(capsys, *arguments: object) -> str:
    """Return the message of a training that is refused, in this process: nothing has been computed
    by then."""
    code = command_line.main(["train", "--config", str(UNETPP), *map(str, arguments)])
    assert code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def run_folder(finished_run, tmp_path_factory) -> Path:
    """A copy of the finished run, for commands that may write into it."""
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "copied")


@pytest.fixture(scope="module")
def evaluated_run(finished_run, tmp_path_factory) -> tuple[Path, str]:
    """A copy of the finished run behind its evaluation, and what that printed."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "evaluated")
    process = runs.task("evaluate", "--workdir", workdir, "--picture", workdir / "picture.png")
    assert process.returncode == 0, process.stderr
    return workdir, process.stdout


@pytest.fixture(scope="module")
def deeper_run(lake, tmp_path_factory) -> Path:
    """A finished run of four epochs, three steps each, of a network with two heads; evaluated."""
    workdir = tmp_path_factory.mktemp("runs") / "deeper"
    for words in (["train", "--lake", lake, *SMALL], ["evaluate"]):
        process = runs.task(*words, "--workdir", workdir)
        assert process.returncode == 0, process.stderr
    return workdir


@marks.exhaustive  # test_replicas.py has the steps alone
@pytest.mark.slow
def test_replicas_and_parts_of_a_batch_give_the_same_losses(lake, tmp_path):
    # A norm that every gradient exceeds, so that clipping before the reduction would show. Adam
    # would divide what rounding leaves of a zero gradient by its own size.
    clipped = [*SMALL, "--model.depth=1", "--optimizer.kind=sgd", "--optimizer.learning_rate=1"]
    clipped += ["--optimizer.clip_norm=0.05"]
    losses = {}
    for replicas, parts in ((1, 1), (4, 2)):
        workdir = tmp_path / str(replicas)
        split = [f"--train.replicas={replicas}", f"--optimizer.accumulate={parts}"]
        process = runs.task("train", "--lake", lake, "--workdir", workdir, *clipped, *split)
        assert process.returncode == 0, process.stderr
        assert f"{8 // replicas} images each per step" in process.stdout
        losses[replicas] = runs.losses(workdir)
        norms = runs.scalars(workdir / "train")["gradient_norm"].values()
        assert len(norms) == 12 and min(norms) > 0.05
    assert len(losses[1]) == 12 and losses[1][-1] < losses[1][0]
    assert np.allclose(losses[1], losses[4], atol=1e-5, rtol=0)


@marks.exhaustive
def test_stages_follow_each_other_and_keep_what_they_learned(lake, tmp_path):
    """Two stages; the first with a moving average and a falling share of positives, the second with
    the mean of its last epochs, at twice the side."""
    path = tmp_path / "staged.yaml"
    path.write_text(
        """
        model: {kind: unet, depth: 1, filters: 4, norm: batch}
        data: {side: 16, batch_size: 8, positive_share: [0.8, 0.4]}
        train: {epochs: 2, device: cpu}
        stages:
        - {optimizer: {ema: 0.9, schedule: plateau, plateau_epochs: 1}}
        - {data: {side: 32, positive_share: null, positives_only: true}, optimizer: {swa_epochs: 2}}
        """
    )
    command = ["--lake", lake, "--workdir", tmp_path / "run", "--config", path]
    process = runs.task("train", *command, config_name=None)
    assert process.returncode == 0, process.stderr
    for text in ("stage 1 of 2", "at 16 px", "stage 2 of 2", "at 32 px"):
        assert text in process.stdout
    lines = [line for line in process.stdout.splitlines() if "layers loaded" in line]
    assert len(lines) == 1 and "stage_1/best.weights.h5: 14 of 14 layers loaded" in lines[0]
    again = runs.task("train", *command, config_name=None)
    assert again.returncode == 0 and again.stdout.count("all 2 epochs are done") == 2, again.stderr
    evaluation = runs.task("evaluate", "--workdir", tmp_path / "run")
    assert evaluation.returncode == 0, evaluation.stderr


@marks.exhaustive
def test_a_stopped_run_resumes_to_the_same_end(lake, deeper_run, tmp_path):
    workdir = tmp_path / "stopped"
    shutil.copytree(deeper_run, workdir)
    # As if killed after the third epoch: the fourth epoch's checkpoint and curve are gone.
    (workdir / "checkpoints" / "checkpoint").unlink()
    assert list((workdir / "checkpoints").glob("ckpt-9.*"))
    for path in (workdir / "checkpoints").glob("ckpt-12.*"):
        path.unlink()
    (workdir / "checkpoints" / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-9"\nall_model_checkpoint_paths: "ckpt-9"\n'
    )
    shutil.rmtree(workdir / "train")
    process = runs.task("train", "--lake", lake, "--workdir", workdir, *SMALL)
    assert process.returncode == 0, process.stderr
    assert "resuming at step 9" in process.stdout
    assert np.allclose(runs.losses(workdir), runs.losses(deeper_run)[9:], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_repeating_a_finished_command_does_nothing_more(lake, finished_run, run_folder):
    before = runs.losses(run_folder)
    assert len(before) == 4
    options = ["--config", finished_run.with_name("tiny.yaml"), "--train.epochs=2"]
    process = runs.task(
        "train", "--lake", lake, "--workdir", run_folder, *options, config_name=None
    )
    assert process.returncode == 0, process.stderr
    assert "all 2 epochs are done" in process.stdout and runs.losses(run_folder) == before


@pytest.mark.slow
def test_tensorboard_has_both_curves_under_the_same_tags_and_panels(run_folder):
    train, val = runs.scalars(run_folder / "train"), runs.scalars(run_folder / "val")
    common_tags = TRAINING.keys() - {"accuracy", f"pixel_ppv{HALF_NETWORK}"}  # of predicted pixels
    assert common_tags <= train.keys() and common_tags <= val.keys()
    assert {"learning_rate", "images_per_second"} <= train.keys()
    assert list(val[f"dice_mean{HALF_NETWORK}"]) == [6, 12]
    panels = [
        value
        for path in (run_folder / "val").glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    ]
    assert len(panels) == 2
    width, height, png = tf.make_ndarray(panels[0].tensor)
    assert int(width) > 500 and png.startswith(b"\x89PNG")


@pytest.mark.slow
def test_evaluate_scores_a_run_and_draws_it(evaluated_run):
    workdir, output = evaluated_run
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert {"last", "evaluate"} <= metrics.keys()
    for split in ("val", "test"):
        scores = metrics["evaluate"]["splits"][split]
        assert 0 <= scores["dice_mean"] <= 1 and scores["without_mask"] == 0
        assert f"{scores['dice_mean']:.1f}" in output
    val = metrics["evaluate"]["splits"]["val"]
    assert (
        val["dice_mean"] >= val["dice_all_empty"] - 1e-9
    )  # an area threshold can empty every mask
    assert (workdir / "picture.png").read_bytes().startswith(b"\x89PNG")


@marks.exhaustive
def test_evaluate_with_mirror_images_has_scores_of_its_own(deeper_run):
    plain = json.loads((deeper_run / "metrics.json").read_text())["evaluate"]
    process = runs.task("evaluate", "--workdir", deeper_run, "--tta=flip")
    assert process.returncode == 0 and "with its mirror images" in process.stdout, process.stderr
    metrics = json.loads((deeper_run / "metrics.json").read_text())
    assert metrics["evaluate"] == plain
    mirror_scores = metrics["evaluate_tta_flip"]
    assert (plain["tta"], mirror_scores["tta"]) == ("none", "flip")
    assert plain["splits"] != mirror_scores["splits"]


@marks.exhaustive
def test_evaluate_scores_the_smaller_network_in_a_deeper_one(deeper_run):
    process = runs.task("evaluate", "--workdir", deeper_run, "--level", 1)
    assert process.returncode == 0, process.stderr
    # Three blocks and an upsampling of 8 and 16 filters: 6,425; their norms have 2 a filter more.
    assert "pruned to L1: 6,553 parameters" in process.stdout
    metrics = json.loads((deeper_run / "metrics.json").read_text())
    small_scores = metrics["evaluate_l1"]
    assert small_scores["splits"]["val"]["images"] == 8 and small_scores != metrics["evaluate"]
    other_level = runs.task("evaluate", "--workdir", deeper_run, "--level", 3)
    assert (
        other_level.returncode == 2 and "level=3: expected 1 to model.depth=2" in other_level.stderr
    )


@pytest.mark.slow
def test_a_classifier_trains_through_the_same_loop(lake, tmp_path):
    options = ["--model.encoder=plain", "--model.filters=4", "--model.depth=1", "--data.side=16"]
    options += ["--data.batch_size=8", "--train.epochs=1"]
    process = runs.task(
        "train", "--lake", lake, "--workdir", tmp_path / "run", *options, config_name="classifier"
    )
    assert process.returncode == 0, process.stderr
    assert "auc" in runs.scalars(tmp_path / "run" / "val")  # test_evaluate.py evaluates one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--train.replicas=3"],
            "batch_size=8 does not divide over 3 replicas (CPU:0, CPU:1, CPU:2); use a multiple",
        ),
        (["--lake", "/nowhere/x/1.0.0"], "/nowhere/x/1.0.0: no manifest.json"),
        (["--data.val_split=holdout"], "no records in split 'holdout'"),
        (["--data.batch_size=800"], "batch_size=800, but the training split has"),
        (["--config", "/nowhere.yaml"], "no such file"),
    ],
)
def test_bad_input_is_refused(lake, tmp_path, capsys, options, message):
    error = refusal(capsys, "--lake", lake, "--workdir", tmp_path / "run", *SMALL, *options)
    assert message in error


@pytest.mark.slow
def test_bad_input_is_one_message_and_exit_code_2(lake, tmp_path):
    wrong = ["--model.depht=3", "--train.device=npu"]
    process = runs.task("train", "--lake", lake, "--workdir", tmp_path / "run", *wrong)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "model.depht: unknown key; did you mean depth?" in process.stderr


@pytest.mark.slow
def test_another_lake_in_the_same_workdir_is_refused(
    phantoms, convert, run_folder, tmp_path, capsys
):
    other = tmp_path / "phantoms" / "1.0.0"
    convert(phantoms / "dicom" / "*.dcm", phantoms / "train-rle.csv", other)
    message = refusal(capsys, "--lake", other, "--workdir", run_folder, *SMALL)
    assert "-> others in" in message


def test_a_lake_without_masks_trains_no_segmenter(phantoms, convert, tmp_path, capsys):
    names = sorted(path.stem for path in phantoms.glob("dicom/*.dcm"))
    csv_path = tmp_path / "classes.csv"
    csv_path.write_text("\n".join(f"{name},{n % 2}" for n, name in enumerate(names)) + "\n")
    lake = tmp_path / "classes" / "1.0.0"
    convert(phantoms / "dicom" / "*.dcm", csv_path, lake)
    each_once = [*SMALL, "--data.positive_share=null"]
    message = refusal(capsys, "--lake", lake, "--workdir", tmp_path / "run", *each_once)
    assert "no mask with a lesion to learn from" in message


@pytest.mark.slow
def test_another_config_in_the_same_workdir_is_refused(lake, run_folder, capsys):
    message = refusal(capsys, "--lake", lake, "--workdir", run_folder, *SMALL)
    assert "model.depth: 1 -> 2" in message


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU")
def test_a_gpu_that_is_missing_is_an_error():
    from lake import InputError
    from trainer.devices import strategy

    with pytest.raises(InputError, match="sees no GPU"):
        strategy.create_strategy("gpu", None, 8)
