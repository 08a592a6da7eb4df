"""launch.dataflow and beam.running.runners: the command, the end of a job, and a rehearsal against
a local stand-in of Cloud Storage."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from makers import cloud_storage
from makers.marks import exhaustive

from beam import convert, table
from beam.conversion.options import parser
from beam.running import runners
from beam.running.options import check_beam_arguments
from lake import InputError, Stopped
from launch import dataflow

ROOT = Path(__file__).parents[2]
CONVERSION = ["--images=gs://bucket/dicom/*.dcm", "--labels=gs://bucket/train-rle.csv"]
CONVERSION += ["--output=gs://bucket/lakes/siim/1.0.0", "--deidentify=keep"]
PLACE = ["--project=my-project", "--region=us-central1", "--staging=gs://bucket/dataflow"]


def beam_arguments(*more: str) -> list[str]:
    """Return the arguments of the launched command that go to Beam, not to beam.convert."""
    words = dataflow.command(*dataflow.parser().parse_known_args([*PLACE, *CONVERSION, *more]))
    assert words[:3] == [sys.executable, "-m", "beam.convert"]
    return parser().parse_known_args(words[3:])[1]


@pytest.mark.parametrize("more", [[], ["--image=i", "--private_ips", "--subnetwork=s"]])
def test_every_option_is_one_that_beam_has(more):
    arguments = beam_arguments(*more, "--name=n", "--service_account=a@b", "--detach")
    check_beam_arguments(arguments)
    assert "--runner=DataflowRunner" in arguments


def test_the_workers_get_the_sdist_or_a_container():
    assert f"--setup_file={ROOT / 'setup.py'}" in beam_arguments()
    arguments = beam_arguments("--image=eu-docker.pkg.dev/p/r/beam:1", "--private_ips")
    assert "--sdk_container_image=eu-docker.pkg.dev/p/r/beam:1" in arguments
    assert "--no_use_public_ips" in arguments
    assert not [word for word in arguments if "setup_file" in word]


def test_what_cannot_work_is_refused_here(capsys):
    with pytest.raises(InputError, match="needs --image"):
        beam_arguments("--private_ips")
    with pytest.raises(SystemExit, match="2"):
        beam_arguments("--staging=/tmp")
    assert "expected gs://BUCKET/FOLDER" in capsys.readouterr().err


def test_a_dry_run_prints_the_command_and_nothing_starts_without_a_yes(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started"))
    assert dataflow.main([*PLACE, *CONVERSION, "--dry_run"]) == 0
    output = capsys.readouterr().out
    assert "20 x e2-standard-4" in output
    assert "# roles of whoever launches: roles/dataflow.developer, " in output
    assert "Compute Engine account: roles/dataflow.worker, roles/storage.objectUser" in output
    monkeypatch.setattr(sys, "stdin", (tmp_path / "nobody").open("w+"))
    assert dataflow.main([*PLACE, *CONVERSION]) == 2
    assert "add --yes" in capsys.readouterr().err


def test_an_estimate_starts_nothing_to_be_asked_about(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execv", lambda _, words: calls.append(words) or 0)
    monkeypatch.setattr(sys, "stdin", (tmp_path / "nobody").open("w+"))
    assert dataflow.main([*PLACE, *CONVERSION, "--estimate", "--dry_run"]) == 0
    assert not calls
    assert dataflow.main([*PLACE, *CONVERSION, "--estimate"]) == 0
    [words] = calls
    assert words[2] == "beam.convert" and "--estimate" in words


@pytest.mark.parametrize("wrong", ["--max_workers=0", "--disk_gb=-1"])
def test_no_machine_is_a_mistake(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        dataflow.main([*PLACE, *CONVERSION, wrong])
    assert "expected a number from 1 on" in capsys.readouterr().err


def test_a_yes_becomes_the_conversion():
    command = [sys.executable, "-m", "launch.dataflow", *PLACE, "--yes"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert "error: the following arguments are required: --images" in process.stderr


def test_a_local_conversion_cannot_be_left(phantoms, tmp_path):
    with pytest.raises(InputError, match="--detach is for a remote runner"):
        convert.run(
            [f"--images={phantoms}/dicom/*.dcm", f"--output={tmp_path}/a/1.0.0", "--detach"]
        )


def test_the_table_again(lake, capsys):
    assert table.main([str(lake)]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["files           40", "images          40"]
    assert table.main([str(lake / "none")]) == 2
    assert "has not finished" in capsys.readouterr().err


def test_what_beam_refuses_is_one_message_without_a_traceback(phantoms, tmp_path, capsys):
    words = [f"--images={phantoms}/dicom/*.dcm", f"--labels={phantoms}/train-rle.csv"]
    words += [f"--output={tmp_path}/a/1.0.0", "--deidentify=keep", "--runner=DirectRunner"]
    assert convert.main([*words, "--environment_type=PROCESS"]) == 2
    assert capsys.readouterr().err.startswith("error: Pipeline has validations errors")


class Jobs:
    """Dataflow's client as Beam's result uses it, with a job that goes through these states."""

    def __init__(self, *states: str):
        self.states, self.requests = list(states), []

    def get_job(self, job_id: str):
        from google.cloud.dataflow_v1beta3.types import Job

        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Job(id=job_id, current_state=f"JOB_STATE_{state}")

    def list_messages(self, *_, **__):
        return [], None

    def modify_job_state(self, job_id: str, state: str) -> bool:
        self.requests.append((job_id, state))
        self.states = ["CANCELLED"]
        return True


def wait(jobs: Jobs, error: str = "", detach: bool = False) -> bool:
    from apache_beam.runners.dataflow import dataflow_runner

    runner = dataflow_runner.DataflowRunner()
    runner.dataflow_client, runner.last_error_msg = jobs, error
    place = PipelineOptions(["--project=my-project", "--region=us-central1"])
    result = dataflow_runner.DataflowPipelineResult(jobs.get_job("7"), runner, place)
    return runners.wait(result, runners.DATAFLOW, place, detach)


def test_says_where_the_job_is_and_waits_or_leaves(capsys):
    page = "job: https://console.cloud.google.com/dataflow/jobs/us-central1/7?project=my-project\n"
    assert not wait(Jobs("RUNNING"), detach=True)
    assert capsys.readouterr().out == page
    assert wait(Jobs("DONE"))
    assert capsys.readouterr().out == page


def test_a_failed_job_says_what_stopped_it():
    error = "Traceback … RuntimeError: [conversion stopped: 3 of 4 images rejected :end]"
    with pytest.raises(Stopped) as info:
        wait(Jobs("FAILED"), error)
    assert info.value.args == ("3 of 4 images rejected",)


def test_ctrl_c_while_waiting_cancels_the_job(monkeypatch):
    from apache_beam.runners.dataflow import dataflow_runner

    def interrupt(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    monkeypatch.setattr(dataflow_runner.time, "sleep", interrupt)
    jobs = Jobs("RUNNING")
    with pytest.raises(KeyboardInterrupt):
        wait(jobs)
    assert jobs.requests == [("7", "JOB_STATE_CANCELLED")]


@pytest.fixture(scope="module")
def storage(phantoms, tmp_path_factory):
    """Yield a stand-in of Cloud Storage with a phantom and the labels in it."""
    with cloud_storage.serve(tmp_path_factory.mktemp("storage")) as server:
        for path in [*sorted((phantoms / "dicom").glob("*.dcm"))[:1], phantoms / "train-rle.csv"]:
            server.bucket.blob(str(path.relative_to(phantoms))).upload_from_filename(str(path))
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [[], pytest.param(["--image=some/image:1"], marks=exhaustive)],
    ids=["sdist", "container"],
)
def test_a_rehearsal_stages_everything_and_writes_the_job(storage, more):
    """Runs the launcher's command, and writes a template instead of submitting a job."""
    # Without credentials Beam would look for some for 20 s.
    code = (
        "import sys; from apache_beam.internal.gcp import auth\n"
        "auth._Credentials._credentials_init = True\n"
        "from beam import convert; sys.exit(convert.main(sys.argv[1:]))"
    )
    folder = "container" if more else "sdist"
    words = [*PLACE, f"--staging=gs://bucket/{folder}", *CONVERSION, "--no_auth"]
    words += [f"--template_location=gs://bucket/{folder}/template", *more]
    words += ["--service_account=a@b.com"]
    command = dataflow.command(*dataflow.parser().parse_known_args(words))
    command[1:3] = ["-c", code]
    process = subprocess.run(
        command, cwd=ROOT, env=storage.environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert f"a template, not a job: gs://bucket/{folder}/template" in process.stdout
    job = json.loads(storage.read(f"{folder}/template"))
    [pool] = job["environment"]["workerPools"]
    assert (pool["machineType"], pool["diskSizeGb"]) == ("e2-standard-4", 50)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 20
    staged = {name.rpartition("/")[2] for name in storage.names(folder)}
    assert "pipeline.pb" in staged
    assert ("workflow.tar.gz" in staged) == (not more)
    if more:
        assert "some/image:1" in json.dumps(pool["sdkHarnessContainerImages"])
