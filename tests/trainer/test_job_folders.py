"""The folders that Vertex AI names in a job's environment, and what a user says instead."""

from pathlib import Path

import pytest

from lake import InputError
from trainer import task
from trainer.workdir import model_of_job, workdir_of_job

NAMED = {
    "AIP_TENSORBOARD_LOG_DIR": "base/logs/",
    "AIP_CHECKPOINT_DIR": "base/checkpoints/",
    "AIP_MODEL_DIR": "base/model/",
}


@pytest.fixture
def job(monkeypatch):
    """Names these folders in the environment, and no others."""

    def name(*names: str) -> None:
        for variable in NAMED:
            monkeypatch.delenv(variable, raising=False)
        for variable in names:
            monkeypatch.setenv(variable, NAMED[variable])

    name()
    return name


def test_the_job_s_folder_is_the_workdir_and_is_said(job, capsys):
    job(*NAMED)
    assert workdir_of_job(None) == Path("base/logs")
    assert capsys.readouterr().out == "no --workdir: AIP_TENSORBOARD_LOG_DIR is base/logs/\n"
    assert model_of_job() == Path("base/model")
    job("AIP_CHECKPOINT_DIR")
    assert workdir_of_job(None) == Path("base/checkpoints")
    assert model_of_job() is None


def test_what_the_user_says_goes_before(job, capsys):
    job(*NAMED)
    assert workdir_of_job("runs/mine") == Path("runs/mine")
    assert capsys.readouterr().out == ""


def test_without_a_job_the_workdir_is_required(job, capsys):
    with pytest.raises(InputError, match="--workdir is required"):
        workdir_of_job(None)
    assert task.main(["train", "--config=none.yaml", "--lake=none"]) == 2
    assert "error: --workdir is required: the folder of the run" in capsys.readouterr().err


def test_a_bucket_that_this_installation_cannot_read_is_said(job, monkeypatch):
    monkeypatch.setenv("AIP_TENSORBOARD_LOG_DIR", "s3://bucket/logs")
    with pytest.raises(InputError, match="expected a local path or gs://BUCKET/PATH"):
        workdir_of_job(None)


def test_a_finished_run_that_is_repeated_keeps_the_thresholds_chosen_since(tmp_path):
    from trainer.workdir import BEST, CONFIG, LAKE, METRICS, copy_results, read_json, write_metrics

    workdir, model = tmp_path / "logs", tmp_path / "model"
    workdir.mkdir()
    for name in (CONFIG, LAKE, BEST):
        (workdir / name).write_text(name)
    write_metrics(workdir, {"best": 1})
    copy_results(workdir, model)
    write_metrics(model, {"evaluate": 2})
    (workdir / METRICS).unlink()  # as the message about a damaged one allows
    copy_results(workdir, model)
    assert read_json(model / METRICS) == {"best": 1, "evaluate": 2}
    assert (model / BEST).read_text() == BEST
