"""benchmarks/gpu.py: its whole at toy size, on JAX where no TensorFlow can be imported, and what it
makes of the results of a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from makers.marks import exhaustive

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import gpu
from gpu import Group, Part

FOLDER = Path(gpu.__file__).parent
# A process of Python runs this file first. What is named in it cannot be imported.
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "etils", "PIL", "apache_beam", "pydicom"}:
            raise ModuleNotFoundError(f"{name} is forbidden here", name=name)

sys.meta_path.insert(0, Blocker())
"""
# Batches of more than 4 are out of memory; another error is an error.
FULL_MEMORY = """
import jax, gpu_step
from gpu import Part

def measure(part, config, size):
    if size > 4:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    return {"batch": size}

gpu_step.measure = measure
gpu_step.measure_batches(Part("unetpp", 1024, doublings=20), until=1e10)
gpu_step.measure_batches(Part("unetpp", 512), until=0)
gpu_step.OUT_OF_MEMORY = "another error"
try:
    gpu_step.measure_batches(Part("unetpp", 1024), until=1e10)
except jax.errors.JaxRuntimeError:
    gpu_step.answer(raised=True)
"""
on_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
ROW = {
    **Part("unetpp", 1024)._asdict(),
    "batch": 8,
    "images_per_second": 100.0,
    "step_seconds": 0.08,
    "augmentation_seconds": 0.004,
    "compile_seconds": 30.0,
    "flops": {"compiled": 1e12, "before compilation": 3.2e13, "convolutions by layer": 3e13},
    "flops_source": "before compilation",
    "peak_bytes": 4e10,
    "compiled_bytes": 3.5e10,
}
DEVICE = {"platform": "gpu", "kind": "NVIDIA H200", "bytes_limit": 1e11, "jax": "1", "keras": "3"}


def run_python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run Python on JAX's CPU, where the blocked packages cannot be imported."""
    (folder / "sitecustomize.py").write_text(BLOCKER)
    paths = os.pathsep.join([str(folder), str(FOLDER)])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@exhaustive
@on_jax
def test_all_of_it_runs_without_tensorflow(tmp_path):
    file = tmp_path / "toy.json"
    process = run_python([str(FOLDER / "gpu.py"), "--toy", "--json", str(file)], tmp_path)
    assert process.returncode == 0, process.stderr
    results = json.loads(file.read_text())
    rows = [(row["network"], row["precision"], row["batch"]) for row in results["rows"]]
    bfloat16 = [("unetpp", "bfloat16", 2), ("unetpp", "bfloat16", 4)]
    assert rows == [*bfloat16, ("unet", "float32", 2)]
    for row in results["rows"]:
        first, later = row["losses"]
        assert later < first  # the step learns
        assert row["flops"]["compiled"] == pytest.approx(
            row["flops"]["convolutions by layer"], rel=0.2
        )
        assert row["share_of_peak"] is None and row["compiled_bytes"] > 0
    assert not results["left_out"] and not results["failures"]
    assert "No share of the peak: PEAKS does not have 'cpu'." in process.stdout
    assert "No kernels" in process.stdout


@exhaustive
@on_jax
def test_a_machine_without_a_gpu_is_refused(tmp_path):
    process = run_python([str(FOLDER / "gpu.py")], tmp_path)
    assert process.returncode == 2 and "JAX has only a CPU here" in process.stderr


@exhaustive
@on_jax
def test_batches_are_doubled_until_the_memory_is_full(tmp_path):
    process = run_python(["-c", FULL_MEMORY], tmp_path)
    assert process.returncode == 0, process.stderr
    results = [json.loads(line) for line in process.stdout.splitlines()]
    # From the config's 8 down to 4, which fits; then 8 again, which is too large.
    assert [result.get("too_large", result.get("row", {})).get("batch") for result in results] == [
        8,
        4,
        8,
        None,
        None,
    ]
    assert results[3] == {"left_out": "unetpp 512 px bfloat16: batches of 32 and more"}
    assert results[4] == {"raised": True}


def test_a_peak_is_that_of_the_longest_name():
    assert gpu.peak_of("NVIDIA H200", "bfloat16") == 989.5
    assert gpu.peak_of("NVIDIA H100 80GB HBM3", "float32") == 494.5
    assert gpu.peak_of("NVIDIA H100 PCIe", "bfloat16") == 756.5
    assert gpu.peak_of("NVIDIA A100-SXM4-80GB", "bfloat16") == 312
    assert gpu.peak_of("NVIDIA L40S", "bfloat16") == 362
    assert gpu.peak_of("NVIDIA L40", "bfloat16") is None
    assert gpu.peak_of("TPU v6 lite", "float32") is None


def event(name: str, microseconds: float) -> SimpleNamespace:
    return SimpleNamespace(name=name, duration_ns=1e3 * microseconds)


def test_kernels_are_those_of_the_streams_of_a_device():
    streams = [
        SimpleNamespace(name="Stream #1(Compute)", events=[event("a", 3), event("b", 5)]),
        SimpleNamespace(name="Stream #2(Memcpy)", events=[event("a", 4)]),
        SimpleNamespace(name="Steps", events=[event("step", 90)]),
    ]
    planes = [
        SimpleNamespace(name="/device:GPU:0", lines=streams),
        SimpleNamespace(name="/host:CPU", lines=streams),
    ]
    kernels = gpu.top_kernels(SimpleNamespace(planes=planes), num_steps=2)
    assert [(row["kernel"], row["calls_per_step"]) for row in kernels] == [("a", 1.0), ("b", 0.5)]
    assert kernels[0]["share"] == pytest.approx(7 / 12)
    assert kernels[0]["seconds_per_step"] == pytest.approx(3.5e-6)
    assert gpu.top_kernels(SimpleNamespace(planes=planes[1:]), num_steps=2) == []


def process_that(lines: str, folder: Path) -> Path:
    """Return a script that answers in place of gpu_step.py."""
    (folder / "step.py").write_text(f"import json, sys, time\n{lines}")
    return folder / "step.py"


def test_the_page_has_shares_ratios_and_the_largest_batch(tmp_path, monkeypatch):
    answers = [
        {"device": DEVICE},
        {"row": ROW},
        {"too_large": {**ROW, "batch": 32}},
        {"row": {**ROW, "batch": 16, "peak_bytes": None, "step_seconds": 0.16}},
        {"row": {**ROW, "precision": "float32", "images_per_second": 40.0}},
        {"left_out": "the rest"},
    ]
    lines = "".join(f"print({json.dumps(answer)!r})\n" for answer in answers)
    monkeypatch.setattr(gpu, "STEP", process_that(lines, tmp_path))
    results = gpu.run([Group([Part("unetpp", 1024)], 1)], minutes=1, report=lambda line: None)
    first, second, third = results["rows"]
    assert first["tflops_per_second"] == pytest.approx(400)  # 3.2e13 in 0.08 s
    assert first["share_of_peak"] == pytest.approx(400 / 989.5)
    assert third["share_of_peak"] == pytest.approx(400 / 494.5)
    assert first["augmentation_share"] == pytest.approx(0.05)
    text = gpu.page(results)
    assert "40.4% | 40.00 GB" in text and "20.2% | ? |" in text
    assert "unetpp 1024 px bfloat16: largest batch 16; 32 is out of memory" in text
    assert "unetpp 1024 px float32, batch 8: 0.40x the images/s as it is" in text
    assert "Operations of 3 of 3 rows: JAX's cost_analysis, before compilation." in text
    assert text.endswith("left out for want of time: the rest")


def test_a_process_ends_when_its_time_is_over_and_the_next_one_has_what_is_left(
    tmp_path, monkeypatch
):
    lines = f"print({json.dumps({'device': DEVICE})!r}, flush=True)\ntime.sleep(60)"
    monkeypatch.setattr(gpu, "STEP", process_that(lines, tmp_path))
    groups = [Group([Part("unetpp", 1024)], 1), Group([Part("unetpp", 512)], 1)]
    minutes = (gpu.SPARE_SECONDS + 1) / 60
    results = gpu.run(groups, minutes, report=lambda line: None)
    names = ["unetpp 1024 px bfloat16", "unetpp 512 px bfloat16"]
    assert results["left_out"] == [f"the end of {name}" for name in names]


def test_an_error_is_reported_and_the_exit_code_is_1(tmp_path, monkeypatch, capsys):
    lines = f"print({json.dumps({'device': DEVICE})!r})\nsys.exit('no such kernel')"
    monkeypatch.setattr(gpu, "STEP", process_that(lines, tmp_path))
    monkeypatch.setattr(gpu, "groups_of_parts", lambda is_toy: [Group([Part("unetpp", 8)], 1)])
    assert gpu.main(["--json", str(tmp_path / "all.json")]) == 1
    assert "failed:\nno such kernel" in capsys.readouterr().out
    assert json.loads((tmp_path / "all.json").read_text())["failures"] == ["no such kernel\n"]


@pytest.mark.parametrize("options", [["--minutes", "0"], ["--json", "no/such/folder/file"]])
def test_a_mistake_is_one_message(options, capsys):
    with pytest.raises(SystemExit) as end:
        gpu.main(options)
    assert end.value.code == 2 and options[0] in capsys.readouterr().err
