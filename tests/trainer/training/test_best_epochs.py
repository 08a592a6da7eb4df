"""Which epochs' weights are kept, after a kill and a damaged checkpoint too; a run that ends early;
what it leaves for TensorBoard."""

import json
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from makers.marks import exhaustive
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from lake import InputError
from trainer import task
from trainer.config import run
from trainer.devices import workers
from trainer.training import checkpoint

DICE_MEAN = "dice_mean_at_half_network_size"
SCORES = [0.5, 0.3, 0.5, 0.7, 0.1, 0.6, 0.7]  # of the epochs 1, 2, …


def fresh(workdir: Path, keep: int) -> checkpoint.State:
    """Return the state of a network of one weight, which is the number of the epoch."""
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    alone = workers.Agreement(tf.distribute.get_strategy(), workers.ALONE)
    return checkpoint.State(workdir, network, alone, keep)


def finish(state: checkpoint.State, epoch: int, is_killed: bool = False) -> None:
    """Do what ends an epoch; `is_killed`: before the checkpoint is written."""
    state.network.layers[0].kernel.assign([[float(epoch)]])
    state.keep_if_best(SCORES[epoch - 1], epoch)
    if not is_killed:
        state.step = epoch
        state.save()


def weight_in(path: Path) -> float:
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.load_weights(path)
    return float(network.layers[0].kernel[0, 0])


def files(workdir: Path) -> dict[str, float]:
    return {path.name: weight_in(path) for path in workdir.glob("best/*")}


@pytest.mark.parametrize("keep", [1, 3])
def test_the_weights_of_the_best_epochs_are_kept_the_earlier_of_two_alike(tmp_path, keep):
    state = fresh(tmp_path, keep)
    for epoch in range(1, len(SCORES) + 1):
        finish(state, epoch)
        best_first = sorted(range(1, epoch + 1), key=lambda number: (-SCORES[number - 1], number))
        assert [one["epoch"] for one in state.kept_epochs()] == best_first[:keep]
        assert [one["value"] for one in state.kept_epochs()] == [
            SCORES[n - 1] for n in best_first[:keep]
        ]
        assert weight_in(tmp_path / "best.weights.h5") == best_first[0]
        assert int(state.stale_epochs.numpy()) == epoch - best_first[0]
        for one in state.kept_epochs():
            assert weight_in(tmp_path / one["weights"]) == one["epoch"]
        if keep > 1:
            assert sorted(files(tmp_path).values()) == sorted(best_first[:keep])
    assert (tmp_path / "best").exists() == (keep > 1)


def test_killed_before_its_checkpoint_an_epoch_comes_again_to_the_same_files(tmp_path):
    whole_run = fresh(tmp_path / "a", 2)
    for epoch in range(1, len(SCORES) + 1):
        finish(whole_run, epoch)
        fresh_one = fresh(tmp_path / "b", 2)
        fresh_one.restore(tmp_path / "b")
        assert fresh_one.step == epoch - 1
        finish(fresh_one, epoch, is_killed=True)
        again = fresh(tmp_path / "b", 2)
        again.restore(tmp_path / "b")
        finish(again, epoch)
        assert again.kept_epochs() == whole_run.kept_epochs()
        assert files(tmp_path / "a") == files(tmp_path / "b")


def test_behind_a_damaged_checkpoint_weights_that_made_way_are_said_to_be_gone(tmp_path, capsys):
    state = fresh(tmp_path, 2)
    for epoch in (1, 2, 3):  # the third makes the second one's file go
        finish(state, epoch)
    for path in tmp_path.glob("checkpoints/ckpt-3.*"):
        path.write_bytes(b"")
    again = fresh(tmp_path, 2)
    again.restore(tmp_path)
    assert again.step == 2
    assert "epoch_0002.weights.h5 is gone: epoch 2 is not among" in capsys.readouterr().out
    finish(again, 3)
    assert again.kept_epochs() == state.kept_epochs() and len(files(tmp_path)) == 2
    (tmp_path / "best" / "epoch_0001.weights.h5").unlink()
    with pytest.raises(InputError, match="the best epoch's weights cannot be read"):
        fresh(tmp_path, 2).restore(tmp_path)


def test_a_run_that_may_end_early_has_no_last_epochs_to_average():
    sections = {"optimizer": {"swa_epochs": 2}, "train": {"patience": 3}}
    with pytest.raises(ValueError, match="patience=3: a run that ends early does not reach"):
        run.Config(model={"kind": "unet"}, **sections)


def test_an_average_of_the_last_epochs_is_what_is_kept():
    swa = {"model": {"kind": "unet"}, "optimizer": {"swa_epochs": 2}}
    assert run.Config(**swa).score == "last"
    assert run.Config(**swa, train={"keep_best": "dice_mean"}).score == DICE_MEAN
    with pytest.raises(
        ValueError, match="swa_epochs=2 averages the last epochs, and train.epochs=1"
    ):
        run.Config(**swa, train={"epochs": 1})
    waiting = run.merge(swa, {"optimizer": {"schedule": "plateau"}})
    with pytest.raises(
        ValueError, match="plateau waits for a better score, and with optimizer.swa"
    ):
        run.Config(**waiting)


@pytest.fixture(scope="module")
def command(lake, tmp_path_factory) -> list[str]:
    """A run that learns nothing: its first epoch remains the best."""
    folder = tmp_path_factory.mktemp("early")
    path = folder / "tiny.yaml"
    path.write_text(
        """
        model: {kind: unet, depth: 1, filters: 4, norm: none}
        data: {side: 16, batch_size: 4}
        optimizer: {learning_rate: 1.0e-12, schedule: constant, warmup_epochs: 0, weight_decay: 0}
        train: {epochs: 9, device: cpu, steps_per_call: 2, keep: 2, profile: 3}
        """
    )
    names = [f"--config={path}", f"--lake={lake}", f"--workdir={folder / 'run'}"]
    return ["train", *names, "--train.patience=2"]


@pytest.fixture(scope="module")
def early_end(command) -> Path:
    assert task.main(command) == 0
    return Path(command[3].partition("=")[2])


@pytest.mark.slow
def test_a_run_without_a_better_score_ends_early_and_says_so_again(command, early_end, capsys):
    metrics = json.loads((early_end / "metrics.json").read_text())
    assert metrics["last"]["epoch"] == 3 and metrics["best"]["epoch"] == 1
    assert [one["epoch"] for one in metrics["kept"]] == [1, 2]
    assert {path.name for path in early_end.glob("best/*")} == {
        Path(one["weights"]).name for one in metrics["kept"]
    }
    assert task.main(command) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "ended early after epoch 3 of 9: dice_positives_at_half_network_size has not" in line
    assert line.endswith("for train.patience=2 epochs")


@exhaustive
def test_the_last_epochs_are_kept_whatever_they_score(command, tmp_path, capsys):
    last = [*command[:3], f"--workdir={tmp_path}", "--train.keep_best=last", "--train.epochs=3"]
    assert task.main(last) == 0
    assert capsys.readouterr().out.count("(kept)") == 3
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [one["epoch"] for one in metrics["kept"]] == [3, 2]
    assert metrics["best"] == {"score": "last", "value": 3, "epoch": 3}


def scalars(folder: Path) -> dict[str, list[float]]:
    accumulator = event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [float(tensor_util.make_ndarray(e.tensor_proto)) for e in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    }


@pytest.mark.slow
def test_tensorboard_gets_a_trace_of_the_asked_steps_and_the_best_scores(early_end):
    [path] = early_end.glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    names = [one.name for plane in space.planes for one in plane.event_metadata.values()]
    calls = [name for name in names if name.startswith("train")]
    assert calls and any("several_steps" in name for name in names)
    best, train = scalars(early_end), scalars(early_end / "train")
    assert {"best/dice_positives_at_half_network_size", "best/auc", "best/loss"} <= best.keys()
    waits = train["input_wait_share"]
    assert len(waits) == 9 and all(0 <= share <= 1 for share in waits)
    memory_gb = train["peak_memory_gb"]
    assert len(memory_gb) == 3 and 0.1 < memory_gb[0] <= memory_gb[-1] < 100


def test_a_folder_s_name_is_no_pattern(tmp_path):
    """As hyperparameter sweeps name folders; the name as a pattern matches the neighbour's."""
    workdir, neighbour = tmp_path / "b [lr=1e-3]*?", tmp_path / "b l"
    for folder in (neighbour, workdir):
        state = fresh(folder, keep=1)
        for epoch in range(1, 6):
            finish(state, epoch)
    for folder in (neighbour, workdir):
        indices = sorted(path.name for path in (folder / "checkpoints").glob("*.index"))
        assert indices == ["ckpt-4.index", "ckpt-5.index"]
    restarted = fresh(workdir, keep=1)
    restarted.restore(workdir)
    assert restarted.step == 5 and float(restarted.network.layers[0].kernel[0, 0]) == 5
    # The newest one is damaged: the one before is read, and this one is moved away.
    data = workdir / "checkpoints" / "ckpt-5.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:20])
    restarted = fresh(workdir, keep=1)
    restarted.restore(workdir)
    assert restarted.step == 4 and float(restarted.network.layers[0].kernel[0, 0]) == 4
    assert (workdir / "checkpoints" / "damaged" / data.name).exists()
    assert len(list((neighbour / "checkpoints").glob("ckpt-*"))) == 4
