"""The sdist, installed and used outside the checkout: by hand, and as on two Vertex AI machines."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from makers.marks import exhaustive

from launch import cluster, custom_job, sdist
from radlake import __version__
from trainer.inference import ensemble

pytestmark = pytest.mark.slow
# Variables that would lead a process back to this checkout, or into another cluster.
OURS = {"PYTHONPATH", "TF_CONFIG"}
NO_DOWNLOADS = "--no-deps", "--no-build-isolation"
TINY = """
model: {kind: unetpp, depth: 1, filters: 8}
data: {side: 16, batch_size: 12}
optimizer: {learning_rate: 1e-2}
train: {epochs: 12, device: cpu, steps_per_call: 1}
"""


def environment(python: Path, **more: str) -> dict[str, str]:
    """Return an environment in which the command `python` is this one."""
    others = {name: text for name, text in os.environ.items() if name not in OURS}
    return others | {"PATH": f"{python.parent}:{others['PATH']}"} | more


def borrowing(folder: Path) -> Path:
    """Return the Python of a new venv, which imports all other packages from the one that runs
    here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = folder.glob("lib/python3*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *words: object) -> str:
    """Run a command of the venv, which must succeed; return its output."""
    command = [python.parent / words[0], *map(str, words[1:])]
    process = subprocess.run(
        command, cwd=folder, env=environment(python), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def check_the_small_way(python: Path, folder: Path, phantoms: Path, lake: Path, key: Path) -> None:
    """Go from phantoms to masks by the command on the PATH, outside the checkout."""

    def radlake(*words: object) -> str:
        return run(python, folder, "radlake", *words)

    assert radlake("--version") == f"radlake {__version__}\n"
    phantom_options = "--images=4", "--seed=1", "--side=128", "--positive_share=0.4"
    radlake("synthetic", "--output=xrays", *phantom_options)
    dicom = contents(folder / "xrays" / "dicom", "*.dcm")
    assert len(dicom) == 4 and dicom.items() <= contents(phantoms / "dicom", "*.dcm").items()

    files = f"--images={phantoms}/dicom/*.dcm", f"--labels={phantoms}/train-rle.csv"
    options = f"--deidentify_key_file={key}", "--splits=train=0.6,val=0.2,test=0.2"
    lake_folder = folder / "phantoms" / "1.0.0"
    radlake("convert", *files, *options, f"--output={lake_folder}", "--runner=DirectRunner")
    assert contents(lake_folder, "*.tfrecord-*") == contents(lake, "*.tfrecord-*")

    small = "--data.side=16", "--data.batch_size=8", "--model.depth=1", "--train.epochs=1"
    names = "--config=demo_unetpp", f"--lake={lake_folder}", "--workdir=run"
    radlake("train", *names, *small, "--train.device=cpu", "--train.steps_per_call=1")
    output = radlake("evaluate", "--workdir=run", "--bootstrap=10")
    assert "thresholds chosen on val: " in output
    script = (sdist.ROOT / "trainer" / "evaluation" / "page" / "table.js").read_text().strip()
    assert script in (folder / "run" / "report.html").read_text()
    radlake("predict", "--workdir=run", "--input=xrays/dicom", "--output=masks")
    assert len((folder / "masks" / "submission.csv").read_text().splitlines()) == 1 + 4


def config_in(folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(TINY)
    return folder / "tiny.yaml"


def vertex(python: Path, place: str, base: Path, package: Path, *words: object) -> subprocess.Popen:
    """Start the command of launch.vertex as in one machine's container, with the variables that the
    service sets; the working folder is the one with the venv."""
    folders = {"MODEL_DIR": "model/", "CHECKPOINT_DIR": "checkpoints/"}
    folders["TENSORBOARD_LOG_DIR"] = "logs/"
    variables = {f"AIP_{name}": f"{base}/{folder}" for name, folder in folders.items()}
    return subprocess.Popen(
        ["sh", "-c", custom_job.START, package, "train", *map(str, words)],
        cwd=python.parent.parent.parent,
        env=environment(python, TF_CONFIG=place, PYTHONUNBUFFERED="1", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def places() -> list[str]:
    """Return TF_CONFIG as Vertex AI writes it for two machines, a chief and a worker."""
    addresses = json.loads(cluster.configs(2)[0])["cluster"]["worker"]
    jobs = {"chief": addresses[:1], "worker": addresses[1:]}
    return [
        json.dumps({"cluster": jobs, "task": {"type": kind, "index": 0}, "environment": "cloud"})
        for kind in jobs
    ]


@exhaustive  # test_workers.py has two workers
def test_two_machines_of_vertex_train_are_taken_and_go_on(package, lake, tmp_path):
    pythons = [borrowing(tmp_path / name / "venv") for name in ("chief", "worker")]
    base, words = tmp_path / "base", [f"--config={config_in(tmp_path)}", f"--lake={lake}"]

    def machine(number: int) -> subprocess.Popen:
        return vertex(pythons[number], jobs[number], base, package, *words)

    jobs = places()
    chief, worker = machine(0), machine(1)
    lines = []
    for line in chief.stdout:
        lines.append(line)
        if "epoch 1/12  |" in line:
            worker.terminate()  # the machine is taken away: the service sends SIGTERM
            break
    worker_output, _ = worker.communicate()
    assert worker.returncode == 42, worker_output
    assert not (base / "model").exists()

    worker = machine(1)  # the service starts another worker; the chief's machine starts by itself
    lines += chief.stdout.read().splitlines(keepends=True)
    worker.communicate()
    assert (chief.wait(), worker.returncode) == (0, 0), lines
    assert lines.count(f"no --workdir: AIP_TENSORBOARD_LOG_DIR is {base}/logs/\n") == 2
    output = "".join(lines)
    assert "resuming at step" in output
    assert f"best weights, config and scores: {base}/model" in output

    starts = json.loads((base / "logs" / "run.json").read_text())["starts"]
    assert [start["commit"] for start in starts] == [None, None]  # no checkout
    [member] = ensemble.load([base / "model"]).members
    assert member.config.lake == str(lake) and (base / "model" / "metrics.json").exists()


def test_the_command_on_the_path_goes_from_phantoms_to_masks(
    package, lake, phantoms, key_file, tmp_path
):
    python = borrowing(tmp_path / "venv")
    run(python, tmp_path, "python", "-m", "pip", "install", "-q", *NO_DOWNLOADS, package)
    check_the_small_way(python, tmp_path, phantoms, lake, key_file)


@exhaustive
def test_an_empty_environment_installs_all_that_is_needed(
    package, lake, phantoms, key_file, tmp_path
):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, tmp_path, "python", "-m", "pip", "install", "--quiet", f"{package}[train-cpu]")
    check = run(python, tmp_path, "python", "-m", "pip", "check")
    assert check == "No broken requirements found.\n"
    frozen = run(python, tmp_path, "python", "-m", "pip", "freeze")
    assert "pylibjpeg-libjpeg" not in frozen and "imagecodecs" in frozen  # the former is GPL-3.0
    check_the_small_way(python, tmp_path, phantoms, lake, key_file)
