"""launch.vertex: the request as the service's own message, and the service's answers from a local
server."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from lake import InputError
from launch import custom_job, machines, preflight, vertex

ROOT = Path(__file__).parents[2]
FLAGS = json.loads((ROOT / "tests" / "launch" / "gcloud_flags.json").read_text())
IMAGE = "us-central1-docker.pkg.dev/my-project/radlake/trainer:1"
pytestmark = pytest.mark.usefixtures("one_sdist")
WORDS = ["--config=configs/unetpp.yaml", "--lake=gs://bucket/lakes/siim/1.0.0"]
WORDS += ["--workdir=gs://bucket/runs/unetpp", "--project=my-project", "--region=us-central1"]
WORDS += [f"--image={IMAGE}"]
NAME = "projects/my-project/locations/us-central1/customJobs/7"
PACKAGE = "radlake-0.1.0.tar.gz"
KINDS = {
    "1 GPU": (["--accelerator=l4"], [("g2-standard-12", "NVIDIA_L4", 1, "", 1)]),
    "8 GPUs": (
        ["--accelerator=h100", "--gpus=8"],
        [("a3-highgpu-8g", "NVIDIA_H100_80GB", 8, "", 1)],
    ),
    "4 x 8 GPUs": (
        ["--accelerator=a100", "--gpus=8", "--machines=4"],
        [
            ("a2-highgpu-8g", "NVIDIA_TESLA_A100", 8, "", 1),
            ("a2-highgpu-8g", "NVIDIA_TESLA_A100", 8, "", 3),
        ],
    ),
    "TPU host": (
        ["--accelerator=tpu_v5e_8"],
        [("ct5lp-hightpu-8t", "ACCELERATOR_TYPE_UNSPECIFIED", 0, "2x4", 1)],
    ),
    "older TPU host": (["--accelerator=tpu_v3"], [("cloud-tpu", "TPU_V3", 8, "", 1)]),
}


def flags(*more: str) -> argparse.Namespace:
    return vertex.parser().parse_args([*WORDS, *more])


@pytest.fixture(scope="module")
def types():
    """Return the service's module of messages, which takes seconds to import."""
    from google.cloud.aiplatform_v1 import types

    return types


@pytest.mark.parametrize("kind", KINDS)
def test_the_request_is_a_custom_job_of_the_service(types, kind):
    words, expected = KINDS[kind]
    job = types.CustomJob.from_json(json.dumps(custom_job.request(flags(*words), PACKAGE)))
    pools = [
        (
            pool.machine_spec.machine_type,
            pool.machine_spec.accelerator_type.name,
            pool.machine_spec.accelerator_count,
            pool.machine_spec.tpu_topology,
            pool.replica_count,
        )
        for pool in job.job_spec.worker_pool_specs
    ]
    assert pools == expected
    assert job.job_spec.scheduling.restart_job_on_worker_restart == (len(pools) > 1)
    [container] = {str(pool.container_spec) for pool in job.job_spec.worker_pool_specs}
    assert ("--train.device=tpu" in container) == ("TPU" in kind)


def test_all_that_can_be_asked_for_is_in_the_message(types):
    words = ["--accelerator=t4", "--gpus=4", "--spot", "--max_days=2", "--disk_gb=500"]
    words += ["--name=night-run", "--label=team=chest", "--service_account=a@b.com"]
    board = "projects/my-project/locations/us-central1/tensorboards/3"
    network = "projects/12/global/networks/n"
    options = flags(*words, f"--tensorboard={board}", f"--network={network}")
    job = types.CustomJob.from_json(json.dumps(custom_job.request(options, PACKAGE)))
    spec = job.job_spec
    assert (job.display_name, dict(job.labels)) == (
        "night-run",
        {"program": "radlake", "team": "chest"},
    )
    assert spec.scheduling.strategy.name == "SPOT"
    assert spec.scheduling.timeout.total_seconds() == 2 * 86400
    assert (spec.tensorboard, spec.network) == (board, network)
    assert spec.service_account == "a@b.com"
    # A TensorBoard instance reads AIP_TENSORBOARD_LOG_DIR, which is this folder's logs/.
    assert spec.base_output_directory.output_uri_prefix == "gs://bucket/runs/unetpp"
    [pool] = spec.worker_pool_specs
    assert "--workdir=/gcs/bucket/runs/unetpp/logs" in pool.container_spec.args
    assert pool.disk_spec.boot_disk_size_gb == 500
    assert pool.container_spec.image_uri == IMAGE


def test_every_machine_is_one_that_the_service_has_a_name_for(types):
    accelerators = {accelerator for accelerator, _ in machines.GPUS.values()}
    accelerators |= {
        tpu["acceleratorType"] for tpu in machines.TPUS.values() if "acceleratorType" in tpu
    }
    assert accelerators <= {one.name for one in types.AcceleratorType}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accelerator=h100", "--gpus=3"], "have 8"),
        (["--accelerator=tpu_v5e_8", "--machines=2"], "one TPU host"),
        (["--accelerator=l4", "--tensorboard=t"], "needs --service_account"),
    ],
)
def test_what_the_service_would_refuse_is_refused_here(words, message):
    with pytest.raises(InputError, match=message):
        custom_job.request(flags(*words), PACKAGE)


def test_no_machine_is_a_mistake(capsys):
    with pytest.raises(SystemExit, match="^2$"):
        flags("--accelerator=l4", "--machines=0")
    assert "argument --machines: 0: expected a number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--max_days=0", "--name=Night", "--label=team"])
def test_a_text_that_the_service_would_refuse_is_refused_here(wrong, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        flags("--accelerator=l4", wrong)
    assert f"argument {wrong.partition('=')[0]}: " in capsys.readouterr().err


def test_a_dry_run_prints_the_yaml_that_gcloud_takes(capsys):
    words = [*WORDS, "--accelerator=a100", "--machines=2", "--data.side=512", "--dry_run"]
    assert vertex.main(words) == 0
    output = capsys.readouterr().out
    options = flags("--accelerator=a100", "--machines=2")
    assert yaml.safe_load(output) == custom_job.request(options, PACKAGE)["jobSpec"]
    [line] = [line for line in output.splitlines() if "by hand" in line]
    command = shlex.split(line.partition("by hand: ")[2])
    option_names = {word.partition("=")[0] for word in command if word.startswith("--")}
    assert option_names <= {*FLAGS["ai custom-jobs create"], *FLAGS["all commands"]}


def test_the_plan_says_what_the_run_will_be_and_needs(capsys):
    words = ["--accelerator=a100", "--gpus=8", "--machines=4", "--spot", "--data.batch_size=64"]
    assert vertex.main([*WORDS, *words, "--dry_run"]) == 0
    output = capsys.readouterr().out
    assert "# overrides: --data.batch_size=64\n" in output
    assert "32 replicas on 4 x a100; 2 images each per step\n" in output
    quota = "custom_model_training_preemptible_nvidia_a100_gpus in us-central1, at least 32"
    assert quota in output
    assert "# roles of whoever launches: roles/aiplatform.user, " in output
    account = "the project's Vertex AI Custom Code Service Agent"
    assert f"# roles of {account}: roles/storage.objectUser on the buckets, " in output
    assert "# lake: not looked at" in output and "/no/credentials.json" in output
    assert "    - |\n      python -m pip install" in output  # as one would write it


LAKE = {
    "dataset": "siim",
    "version": "1.0.0",
    "counts": {"splits": {"train": {"records": 9}, "val": {"records": 3}}},
    "shards": [{"split": "train", "records": 9}, {"split": "val", "records": 3}],
    "options": {"folds": 3},
}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.batch_size=12", "does not divide over 8 replicas (1 x a100); use a multiple of 8"),
        ("--data.fold=3", "data.fold=3: gs://bucket/lakes/siim/1.0.0 has the folds 0 to 2"),
        ("--data.val_split=test", "no records in split 'test'; it has train, val"),
    ],
)
def test_what_the_run_would_refuse_is_refused_in_a_dry_run(option, message, monkeypatch, capsys):
    monkeypatch.setattr(preflight, "read_manifest", lambda *_: LAKE)
    words = [*WORDS, "--accelerator=a100", "--gpus=8", "--dry_run"]
    assert vertex.main([*words, option]) == 2
    assert message in capsys.readouterr().err
    assert vertex.main([*words, "--data.fold=2"]) == 0
    assert "# lake: siim 1.0.0: train 9, val 3\n" in capsys.readouterr().out


def test_a_plan_is_made_where_the_cloud_extra_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    message = preflight.read_manifest("gs://bucket/lakes/siim/1.0.0", "my-project")
    assert message.endswith("; pip install 'radlake[cloud]'")


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [("h100", 8), ("tpu_v3", 8), ("tpu_v5e_1", 1), ("tpu_v5e_4", 4), ("tpu_v6e_8", 8)],
)
def test_replicas_of_a_machine(accelerator, expected):
    assert machines.vertex_replicas(accelerator, None, 1) == expected


def test_a_wrong_value_of_the_config_is_reported_before_anything_costs(capsys):
    assert vertex.main([*WORDS, "--accelerator=l4", "--data.sidd=512", "--dry_run"]) == 2
    assert "data.sidd: unknown key" in capsys.readouterr().err


def test_nothing_is_launched_without_a_yes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", (tmp_path / "nobody").open("w+"))
    assert vertex.main([*WORDS, "--accelerator=l4"]) == 2
    assert "add --yes" in capsys.readouterr().err


def test_the_container_installs_the_sdist_and_becomes_the_trainer(tmp_path):
    """Runs the request's own command, with a python that writes down its arguments."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@" >> "$NOTES"\necho >> "$NOTES"\n')
    fake.chmod(0o755)
    options = flags("--accelerator=l4")
    options.lake = "gs://bucket/$(touch oops)/a b/'/1.0.0"
    spec = custom_job.request(options, PACKAGE)["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")}
    subprocess.run([*spec["command"], *spec["args"]], env=environment, cwd=tmp_path, check=True)
    install, train = (tmp_path / "notes").read_text().splitlines()
    assert install.startswith("-m|pip|install|") and install.endswith(f"/launch/{PACKAGE}|")
    assert train.split("|")[:-1] == ["-m", "trainer.task", *spec["args"]]
    assert not (tmp_path / "oops").exists()


class Service(BaseHTTPRequestHandler):
    """Answers as the REST interfaces of Vertex AI and Cloud Storage, as far as a launch needs."""

    states, requests = [], []  # requests: (path, body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.path.partition("?")[0], body))
        self._answer({"name": NAME} if "customJobs" in self.path else {"name": "o"})

    def do_GET(self):
        self.requests.append((self.path.partition("?")[0], b""))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self._answer({"name": NAME, "state": f"JOB_STATE_{state}", "error": {"message": "no"}})

    def _answer(self, content: dict):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def service(types):
    """Yield a JobServiceClient, and the server in this process that it speaks to."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1.services import job_service

    Service.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    transport = job_service.transports.JobServiceRestTransport(
        host=f"http://127.0.0.1:{server.server_port}",
        url_scheme="http",
        credentials=AnonymousCredentials(),
    )
    yield job_service.JobServiceClient(transport=transport), server
    server.shutdown()


@pytest.mark.parametrize(("end", "code"), [("SUCCEEDED", 0), ("FAILED", 1)])
def test_submits_and_waits(service, capsys, end, code):
    client, _ = service
    job = custom_job.request(flags("--accelerator=l4"), PACKAGE)
    assert vertex.submit(client, job, NAME.partition("/customJobs")[0]) == NAME
    path, body = Service.requests[0]
    assert path == "/v1/projects/my-project/locations/us-central1/customJobs"
    assert json.loads(body)["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["imageUri"] == IMAGE
    Service.states = ["QUEUED", "RUNNING", "RUNNING", end]
    assert vertex.wait(client, NAME, seconds=0) == code
    assert capsys.readouterr().out.split() == ["queued", "running", end.lower()]


def test_ctrl_c_while_waiting_cancels_the_job(service, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    Service.states = ["RUNNING"]
    monkeypatch.setattr(vertex.time, "sleep", interrupt)
    client, _ = service
    with pytest.raises(KeyboardInterrupt):
        vertex.wait(client, NAME)
    assert Service.requests[-1][0] == f"/v1/{NAME}:cancel"


def test_uploads_where_the_container_looks(service, tmp_path):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    path = tmp_path / PACKAGE
    path.write_bytes(b"the sdist")
    options = {"api_endpoint": f"http://127.0.0.1:{service[1].server_port}"}
    credentials = AnonymousCredentials()
    client = storage.Client("my-project", credentials=credentials, client_options=options)
    vertex.upload(client, [path], custom_job.staging(flags("--accelerator=l4")))
    [body] = [body for path, body in Service.requests if path == "/upload/storage/v1/b/bucket/o"]
    assert b"the sdist" in body and f"runs/unetpp/launch/{PACKAGE}".encode() in body
