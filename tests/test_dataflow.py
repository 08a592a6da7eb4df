"""launch.dataflow and beam.remote: the command, and a rehearsal against local stand-ins of Cloud
Storage and of the Dataflow service."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from beam import convert, options, table
from lake import InputError
from launch import dataflow

ROOT = Path(__file__).parent.parent
CONVERSION = ["--images=gs://bucket/dicom/*.dcm", "--labels=gs://bucket/train-rle.csv"]
CONVERSION += ["--output=gs://bucket/lakes/siim/1.0.0", "--deidentify=keep"]
PLACE = ["--project=my-project", "--region=us-central1", "--staging=gs://bucket/dataflow"]


def beam_arguments(*more: str) -> list[str]:
    """What of the launched command is not beam.convert's own."""
    words = dataflow.command(*dataflow.parser().parse_known_args([*PLACE, *CONVERSION, *more]))
    assert words[:3] == [sys.executable, "-m", "beam.convert"]
    return options.parser().parse_known_args(words[3:])[1]


@pytest.mark.parametrize("more", [[], ["--image=i", "--private_ips", "--subnetwork=s"]])
def test_every_option_is_one_that_beam_has(more):
    arguments = beam_arguments(*more, "--name=n", "--service_account=a@b", "--detach")
    options.check_beam_arguments(arguments)
    assert "--runner=DataflowRunner" in arguments


def test_the_workers_get_the_sdist_or_a_container():
    assert f"--setup_file={ROOT / 'setup.py'}" in beam_arguments()
    arguments = beam_arguments("--image=eu-docker.pkg.dev/p/r/beam:1", "--private_ips")
    assert "--sdk_container_image=eu-docker.pkg.dev/p/r/beam:1" in arguments
    assert "--no_use_public_ips" in arguments
    assert not [word for word in arguments if "setup_file" in word]


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--private_ips"], "needs --image"), (["--staging=/tmp"], "expected gs://BUCKET/FOLDER")],
)
def test_what_cannot_work_is_refused_here(more, message):
    with pytest.raises(InputError, match=message):
        beam_arguments(*more)


def test_a_dry_run_prints_the_command_and_nothing_starts_without_a_yes(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started"))
    assert dataflow.main([*PLACE, *CONVERSION, "--dry_run"]) == 0
    assert "20 x e2-standard-4" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", (tmp_path / "nobody").open("w+"))
    assert dataflow.main([*PLACE, *CONVERSION]) == 2
    assert "add --yes" in capsys.readouterr().err


def test_a_yes_becomes_the_conversion():
    command = [sys.executable, "-m", "launch.dataflow", *PLACE, "--yes"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 2
    assert "beam.convert: error: the following arguments are required: --images" in said.stderr


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


class Service(BaseHTTPRequestHandler):
    """Dataflow's REST, as far as Beam speaks it: jobs are accepted, and end as told."""

    state, jobs, asked = "JOB_STATE_RUNNING", [], []

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.jobs.append(job)
        self._answer({"id": "7", "name": job["name"], "projectId": "my-project"})

    def do_PUT(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Service.state = asked["requestedState"]
        self._answer({"id": "7", "requestedState": asked["requestedState"]})

    def do_GET(self):
        self.asked.append(self.path)
        messages = [{"id": "1", "messageImportance": "JOB_MESSAGE_ERROR", "messageText": ERROR}]
        is_job = "/messages" not in self.path
        self._answer(
            {"id": "7", "currentState": self.state} if is_job else {"jobMessages": messages}
        )

    def _answer(self, content: dict):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ERROR = "Traceback: RuntimeError: [conversion stopped: 3 of 4 images rejected :end]"


@pytest.fixture
def cloud(phantoms, monkeypatch):
    """Local Cloud Storage with the phantoms in gs://bucket, and Dataflow; its address."""
    pytest.importorskip("apitools", reason="needs radlake[cloud]")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    storage_server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    storage_server.start()
    port = storage_server._api._httpd.server_port
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client("my-project", credentials=AnonymousCredentials())
    for path in [*(phantoms / "dicom").glob("*.dcm"), phantoms / "train-rle.csv"]:
        name = str(path.relative_to(phantoms))
        client.bucket("bucket").blob(name).upload_from_filename(str(path))
    Service.jobs, Service.state = [], "JOB_STATE_RUNNING"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", client
    server.shutdown()
    storage_server.stop()


def launched(address: str, *more: str) -> subprocess.Popen:
    # Without credentials Beam asks for some for 20 s; the rest is the launcher's own command.
    code = (
        "import sys; from apache_beam.internal.gcp import auth\n"
        "auth._Credentials._credentials_init = True\n"
        "from beam import convert; sys.exit(convert.main(sys.argv[1:]))"
    )
    words = [*PLACE, *CONVERSION, f"--dataflow_endpoint={address}", "--no_auth", *more]
    command = dataflow.command(*dataflow.parser().parse_known_args(words))
    command[1:3] = ["-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


@pytest.mark.slow
def test_a_rehearsal_stages_the_sdist_and_the_job(cloud):
    address, client = cloud
    said, errors = launched(address, "--service_account=a@b.com", "--detach").communicate(
        timeout=300
    )
    assert "job: https://console.cloud.google.com/dataflow/jobs/us-central1/7" in said, errors
    assert "python -m beam.table gs://bucket/lakes/siim/1.0.0" in said
    [job] = Service.jobs
    [pool] = job["environment"]["workerPools"]
    assert (pool["machineType"], pool["diskSizeGb"]) == ("e2-standard-4", 50)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 20
    staged = {blob.name.rpartition("/")[2] for blob in client.list_blobs("bucket")}
    assert {"workflow.tar.gz", "pipeline.pb"} <= staged


@pytest.mark.slow
def test_a_failed_job_says_why_and_ctrl_c_cancels(cloud):
    address, _ = cloud
    process = launched(address, "--image=some/image:1")
    assert process.stdout.readline().startswith("job: ")
    [job] = Service.jobs
    [pool] = job["environment"]["workerPools"]
    assert pool["sdkHarnessContainerImages"][0]["containerImage"] == "some/image:1"
    process.send_signal(signal.SIGINT)
    assert "cancelled 7" in process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert Service.state == "JOB_STATE_CANCELLED"
    Service.state = "JOB_STATE_FAILED"
    process = launched(address, "--image=some/image:1")
    assert process.communicate(timeout=300)[1] == "failed: 3 of 4 images rejected\n"


@pytest.mark.slow
def test_a_job_that_is_done_ends_with_the_table_of_a_local_run(cloud):
    address, _ = cloud
    options_here = [*CONVERSION, "--runner=DirectRunner", "--max_reject_fraction=1"]
    assert convert.run(options_here)["counts"]["records"] == 40
    Service.state = "JOB_STATE_DONE"
    said, errors = launched(address, "--image=some/image:1").communicate(timeout=300)
    assert said.splitlines()[1:3] == ["files           40", "images          40"], errors
