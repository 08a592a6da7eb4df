"""One workdir holds one run: what a start finds there that is somebody else's is neither written
over nor deleted, and the refusal leaves every file as it was."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from makers.marks import exhaustive
from makers.trained import CLASSIFIER, UNET

from lake import InputError, lock
from trainer import task
from trainer.config import files
from trainer.config.run import Config
from trainer.display import board
from trainer.display.board import Board, event_files
from trainer.training import ownership, stages
from trainer.workdir import LOCK, LOCK_WORDS

CONFIG = {"model": UNET, "data": {"side": 32, "batch_size": 4}, "train": {"device": "cpu"}}


def config_of(lake: Path, **changes) -> Config:
    sections = {name: CONFIG.get(name, {}) | values for name, values in changes.items()}
    return Config.model_validate(CONFIG | {"lake": str(lake)} | sections)


def contents(folder: Path) -> dict[str, str]:
    """{path: sha256} of all files, and the folders."""
    return {
        str(path.relative_to(folder)): path.is_file()
        and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


@pytest.fixture
def begun(lake, tmp_path) -> Path:
    """A run's folder after two epochs, as far as a start looks at it."""
    workdir = tmp_path / "run"
    begin(workdir, config_of(lake), lake)
    return workdir


def begin(workdir: Path, config: Config, lake: Path, epochs: int = 2) -> None:
    events = ownership.claim(workdir, config, [json.loads((lake / "manifest.json").read_text())])
    board = Board(workdir, 0, run=events)
    for curve in ("train", "val", "."):
        board.scalars(curve, 5, {"loss": 1.0})
    board.flush()
    (workdir / "best.weights.h5").write_bytes(b"weights")
    (workdir / "metrics.json").write_text(json.dumps({"last": {"epoch": epochs}}))
    (workdir / "checkpoints").mkdir()
    for part in ("index", "data-00000-of-00001"):
        (workdir / "checkpoints" / f"ckpt-12.{part}").write_bytes(b"state")


def refusal(workdir: Path, config: Config, model_folder: Path | None = None) -> str:
    """The message about a start, which must leave the folder as it was."""
    before = contents(workdir)
    with pytest.raises(InputError) as raised:
        stages.train(config, workdir, model_folder)
    assert contents(workdir) == before
    return str(raised.value)


def is_accepted(workdir: Path, config: Config) -> None:
    ownership.check(workdir, config.as_stages())


def test_another_config_is_refused_whatever_of_the_run_is_there(begun, lake):
    other = config_of(lake, model={"filters": 6}, train={"seed": 3})
    way = f"--model.weights={begun / 'best.weights.h5'}"
    for parts in (["checkpoints"], ["metrics.json", "train"], ["run.json", "val"], ["lake.json"]):
        message = refusal(begun, other)
        assert f"{begun} holds another run" in message and way in message
        assert "model.filters: 2 -> 6" in message and "train.seed: 0 -> 3" in message
        for name in parts:
            path = begun / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (begun / "best.weights.h5").unlink()  # a start that was killed before its first epoch ended
    assert "delete this one: it has learnt nothing yet" in refusal(begun, other)
    for path in [*event_files(begun)]:  # which lake.json says are the run's
        path.unlink()
    is_accepted(begun, config_of(lake))


def test_another_lake_is_refused_and_the_same_one_elsewhere_is_not(begun, lake, tmp_path):
    moved = shutil.copytree(lake, tmp_path / "elsewhere" / "1.0.0")
    is_accepted(begun, config_of(moved))
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (moved / "manifest.json").write_text(json.dumps(manifest))
    assert "lake: the shards of " in refusal(begun, config_of(moved))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"fold": 0}},
        {"data": {"val_split": "test"}},
        {"model": CLASSIFIER | {"classes": 2}},
        {"train": {"epochs": 50}},
        {"optimizer": {"learning_rate": 0.5}},
    ],
)
def test_what_changes_a_run_is_refused(begun, lake, changes):
    assert f"{begun} holds another run" in refusal(begun, config_of(lake, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"replicas": 2, "jit": False, "max_hours": 1, "steps_per_call": 3}},
        {"train": {"patience": 3, "profile": 4, "checkpoint_minutes": 1, "deterministic": True}},
        {"data": {"cache": "memory", "side": 32.0}},
        {"model": {"weights": "another.weights.h5"}, "optimizer": {"learning_rate": "1e-3"}},
    ],
)
def test_what_changes_no_result_is_accepted_and_said(begun, lake, changes, capsys):
    config = config_of(lake, **changes)
    is_accepted(begun, config)
    [line] = capsys.readouterr().out.splitlines()
    names = [f"{section}.{name}: " for section in changes for name in changes[section]]
    is_same = {"data.side: ", "optimizer.learning_rate: "}  # the same numbers, written otherwise
    assert line.startswith(f"{begun}: goes on with what no result depends on: ")
    assert all((name in line) == (name not in is_same) for name in names), line
    content = json.loads((lake / "manifest.json").read_text())
    ownership.claim(begun, config, [content])
    assert "another.weights" not in (begun / "config.yaml").read_text()  # the run has begun
    is_accepted(begun, config_of(lake))


def test_more_epochs_go_on_where_the_rate_does_not_depend_on_their_number(lake, tmp_path, capsys):
    constant = {"schedule": "constant"}
    workdir = tmp_path / "run"
    begin(workdir, config_of(lake, optimizer=constant, train={"epochs": 2}), lake)
    is_accepted(workdir, config_of(lake, optimizer=constant, train={"epochs": 6}))
    assert "train.epochs: 2 -> 6" in capsys.readouterr().out
    fewer = config_of(lake, optimizer=constant, train={"epochs": 1})
    assert "train.epochs: 2 -> 1 (2 are done)" in refusal(workdir, fewer)
    two = config_of(lake, optimizer=constant).model_copy(
        update={"stages": ({"train": {"epochs": 2}}, {"train": {"epochs": 3}})}
    )
    staged = tmp_path / "staged"
    begin(staged / "stage_1", two.as_stages()[0], lake)
    longer = two.model_copy(update={"stages": ({"train": {"epochs": 4}}, two.stages[1])})
    is_accepted(staged, longer)
    begin(staged, two.as_stages()[1], lake)
    assert "(the next stage has begun with what this one learnt)" in refusal(staged, longer)


def test_another_number_of_stages_is_refused(lake, tmp_path):
    """Whichever of the two has more stages, and however far it came."""
    two = config_of(lake).model_copy(update={"stages": ({}, {"train": {"epochs": 2}})})
    three = two.model_copy(update={"stages": (*two.stages, {"train": {"epochs": 3}})})
    one = two.as_stages()[-1]
    workdir = tmp_path / "run"
    begin(workdir / "stage_1", two.as_stages()[0], lake)
    assert "holds stage_1, and this run has no stages" in refusal(workdir, one)
    is_accepted(workdir, two)
    begin(workdir, one, lake)
    is_accepted(workdir, two)
    assert "train.epochs: 2 -> 3" in refusal(workdir, three)
    shutil.rmtree(workdir / "stage_1")
    is_accepted(workdir, one)
    assert "the stage before it, has no best.weights.h5" in refusal(workdir, two)
    begin(workdir / "stage_2", three.as_stages()[1], lake)
    assert "holds stage_2, and this run has 2 stages" in refusal(workdir, two)


def test_event_files_of_others_are_refused_and_stay(begun, lake, tmp_path):
    config, other = config_of(lake), tmp_path / "other"
    begin(other, config_of(lake, train={"seed": 1}), lake)
    for curve in ("train", "val", ""):
        [path] = (other / curve).glob("events*")
        shutil.copy(path, begun / curve)
        assert f"{begun / curve / path.name} is not of this run" in refusal(begun, config)
        (begun / curve / path.name).unlink()
    is_accepted(begun, config)
    [path] = (begun / "train").glob("events*")
    tuner = begun / "events.out.tfevents.1796031059.host.profile-empty"
    tuner.write_bytes(b"")
    is_accepted(begun, config)
    new = tmp_path / "new"
    (new / "val").mkdir(parents=True)
    shutil.copy(path, new / "val")
    assert "TensorBoard would show two runs as one" in refusal(new, config)


def test_a_run_of_before_keeps_its_event_files(begun, lake):
    """Their names had no text of the run, and lake.json did not either."""
    identity = json.loads((begun / "lake.json").read_text())
    del identity["events"]
    (begun / "lake.json").write_text(json.dumps(identity))
    assert "is not of this run" in refusal(begun, config_of(lake))
    for path in [*event_files(begun)]:
        path.rename(path.with_name("events.out.tfevents.1796031059.host.12.3.v2"))
    is_accepted(begun, config_of(lake))
    manifest = json.loads((lake / "manifest.json").read_text())
    assert ownership.claim(begun, config_of(lake), [manifest]) is None
    Board(begun, 0)
    assert not [path for path in event_files(begun) if ".12.3.v2" in path.name]


def test_an_event_file_is_never_one_of_a_run_without_a_text(monkeypatch):
    monkeypatch.setattr(ownership.secrets, "token_hex", lambda size: "0" * 2 * size)  # one in 43
    path = Path(f"events.out.tfevents.1796031059.host.12.3.{ownership._new_events()}.v2")
    assert not board.is_event_file_of(None, path)


def test_a_board_deletes_no_file_of_others(tmp_path):
    names = ["events.out.tfevents.1.host.2.3.mine.v2", "events.out.tfevents.1.host.2.3.v2"]
    names += ["events.out.tfevents.1.host.2.3.theirs.v2", "events.out.tfevents.1.tuner"]
    (tmp_path / "train").mkdir()
    for name in names:
        (tmp_path / "train" / name).write_bytes(b"")
    Board(tmp_path, 0, ("train",), run="mine")
    new_names = {path.name for path in (tmp_path / "train").iterdir()}
    assert {*names[1:]} <= new_names and names[0] not in new_names


def test_files_of_a_run_without_its_config_are_refused(begun, lake, tmp_path):
    (begun / "config.yaml").unlink()
    message = refusal(begun, config_of(lake))
    assert "best.weights.h5, checkpoints, lake.json, metrics.json and no config.yaml" in message
    lone = tmp_path / "lone"
    (lone / "best").mkdir(parents=True)
    assert f"{lone} holds best and no config.yaml" in refusal(lone, config_of(lake))


def test_finished_epochs_without_checkpoints_are_not_trained_over(begun, lake):
    shutil.rmtree(begun / "checkpoints")
    message = refusal(begun, config_of(lake))
    assert "holds a run of 2 epochs without its checkpoints/" in message
    # A kill may come after the first epoch's scores, and before its checkpoint.
    (begun / "metrics.json").write_text(json.dumps({"last": {"epoch": 1}}))
    is_accepted(begun, config_of(lake))


def test_a_start_that_was_killed_anywhere_goes_on(begun, lake):
    """In its first epoch, from its end to its beginning."""
    (begun / "metrics.json").write_text(json.dumps({"last": {"epoch": 1}}))
    for name in ("checkpoints", "metrics.json", "best.weights.h5", "train", "lake.json"):
        path = begun / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if name == "lake.json":  # written before the event files
            for events in event_files(begun):
                events.unlink()
        is_accepted(begun, config_of(lake))


def test_files_that_are_no_run_s_do_not_matter(lake, tmp_path):
    for name in ("slurm-12.out", "trial.json", "lr=1e-3/config.yaml", "find_lr/lr_finder.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("somebody's")
    is_accepted(tmp_path, config_of(lake))
    assert f"{lake} is a lake; give another --workdir" in refusal(lake, config_of(lake))


def test_the_folder_for_the_trained_network_is_of_this_run_too(lake, tmp_path):
    model = tmp_path / "model"
    begin(model, config_of(lake, train={"seed": 1}), lake)
    before = contents(model)
    message = refusal(tmp_path / "logs", config_of(lake), model)
    assert f"{model} holds another run" in message and not (tmp_path / "logs").exists()
    assert contents(model) == before


def test_a_start_beside_a_process_at_work_is_one_message(begun, lake, tmp_path, capsys):
    """Its config may even be the same."""
    path = tmp_path / "config.yaml"
    files.save(config_of(lake), path)
    words = ["train", f"--config={path}", f"--lake={lake}", f"--workdir={begun}"]
    with lock.hold(begun, LOCK, *LOCK_WORDS):
        before = contents(begun)
        assert task.main(words) == 2
        assert contents(begun) == before
    message = capsys.readouterr().err
    assert message.startswith(f"error: {begun}: process ") and message.count("\n") == 1
    assert "trains here; wait until it has ended, or give another --workdir" in message


@exhaustive
def test_a_run_leaves_no_lock_and_its_repeat_is_free(lake, tmp_path):
    path, workdir = tmp_path / "config.yaml", tmp_path / "run"
    files.save(config_of(lake, train={"epochs": 1}), path)
    words = ["train", f"--config={path}", f"--lake={lake}", f"--workdir={workdir}"]
    for _ in range(2):
        assert task.main(words) == 0
        assert not [*workdir.glob("*.lock*")]
    names = {path.name.split(".")[-2] for path in event_files(workdir)}
    assert names == {json.loads((workdir / "lake.json").read_text())["events"]}
