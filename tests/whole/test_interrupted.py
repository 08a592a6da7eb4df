"""Every long command, ended by Ctrl-C, SIGTERM and kill -9 at moments from its first to its last:
its exit code and its last line, and that the same command then ends as an undisturbed one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from makers.marks import exhaustive

ROOT = Path(__file__).parents[2]
MOMENTS = int(os.environ.get("RADLAKE_MOMENTS", 20))  # of each command
NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
TINY = """
model: {kind: unet, depth: 1, filters: 2}
data: {side: 32, batch_size: 4}
train: {epochs: 4, steps_per_call: 2, deterministic: true, checkpoint_minutes: 1.0e-9}
"""


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is ignored where the tests run in the background, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until_armed(process: subprocess.Popen) -> None:
    """Wait until the process takes SIGTERM: until then Python itself starts."""
    bit, line = 1 << (signal.SIGTERM - 1), "SigCgt:\t0"
    while process.poll() is None and not int(line.split()[1], 16) & bit:
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        line = next((line for line in status if line.startswith("SigCgt")), line)
        time.sleep(0.001)


def run(words: list[str]) -> float:
    """Run a command to its end; return the seconds from when it takes signals."""
    process = start(words)
    wait_until_armed(process)
    start_s = time.monotonic()
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return time.monotonic() - start_s


def interrupt(words: list[str], number: signal.Signals, seconds: float) -> int:
    """Send a command a signal after so many seconds; check how it ends, and return its code."""
    process = start(words)
    wait_until_armed(process)
    time.sleep(seconds)
    process.send_signal(number)
    output, error = process.communicate(timeout=600)
    moment = f"{number.name} after {seconds:.2f} s\n{output}\n{error}"
    if process.returncode == 0:  # it was quicker
        return 0
    if number == signal.SIGKILL:
        assert process.returncode == -number, moment
        return process.returncode
    assert "Traceback" not in error, moment
    assert process.returncode == (42 if "train" in words[:2] else 128 + number), moment
    lines = [
        line
        for line in [*output.splitlines(), *error.splitlines()]
        if line.startswith(f"{number.name}: stopped")
    ]
    assert len(lines) == 1, moment
    assert "the same command goes on" in lines[0] or "run it again" in lines[0], moment
    return process.returncode


def sweep(
    words: Callable[[Path], list[str]], tmp_path: Path, result: Callable[[Path], object]
) -> None:
    """Interrupt the command `words(output)` at MOMENTS moments, each start going on with what the
    last has left, and compare `result(output)` with that of an undisturbed one."""
    seconds = run(words(tmp_path / "a" / "same" / "1.0.0"))
    expected, output = result(tmp_path / "a" / "same" / "1.0.0"), tmp_path / "b" / "same" / "1.0.0"
    generator, codes = random.Random(0), []
    for number in range(MOMENTS):
        moment = seconds * (number + generator.random()) / MOMENTS
        codes.append(interrupt(words(output), NUMBERS[number % len(NUMBERS)], moment))
        if codes[-1] == 0:
            assert result(output) == expected
            shutil.rmtree(output.parent, ignore_errors=True)
    run(words(output))
    assert result(output) == expected
    assert sum(map(bool, codes)) >= MOMENTS / 2, codes
    print(f"{words(output)[:2]}: {seconds:.1f} s, {codes}")


def contents(folder: Path) -> dict[str, bytes]:
    """Return {name: bytes} of the files in a folder, without notes of who works there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@exhaustive
def test_a_conversion(phantoms, key_file, tmp_path):
    def words(output: Path) -> list[str]:
        arguments = [f"--images={phantoms}/dicom/*.dcm", f"--labels={phantoms}/train-rle.csv"]
        arguments += [f"--deidentify_key_file={key_file}", "--runner=DirectRunner"]
        return ["beam.convert", *arguments, f"--output={output}", "--min_shards=8"]

    def result(output: Path) -> dict:
        names = [path.name for path in output.glob("*.tfrecord-*")]
        return {name: (output / name).read_bytes() for name in [*names, "index.parquet"]}

    sweep(words, tmp_path, result)


@exhaustive
def test_a_training_run(lake, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)

    def words(output: Path) -> list[str]:
        options = [f"--config={config}", f"--lake={lake}", f"--workdir={output}"]
        return ["trainer.task", "train", *options]

    def result(output: Path) -> tuple:
        metrics = json.loads((output / "metrics.json").read_text())
        return metrics["last"], metrics["best"]

    sweep(words, tmp_path, result)


@exhaustive
def test_an_evaluation(lake, systems, tmp_path):
    source = Path(systems["deep"][1]).with_name("segmenter")

    def words(output: Path) -> list[str]:
        if not output.exists():
            shutil.copytree(source, output)
        return ["trainer.task", "evaluate", f"--workdir={output}", "--bootstrap=50"]

    def result(output: Path) -> dict:
        return json.loads((output / "metrics.json").read_text())["evaluate"]["splits"]

    sweep(words, tmp_path, result)


@exhaustive
def test_predictions_of_files(phantoms, systems, tmp_path):
    def words(output: Path) -> list[str]:
        options = [*map(str, systems["cascade"]), f"--input={phantoms / 'dicom'}", "--overlays"]
        return ["trainer.task", "predict", *options, f"--output={output}", "--probabilities"]

    sweep(words, tmp_path, contents)


@exhaustive
def test_predictions_by_an_export(phantoms, exported, tmp_path):
    def words(output: Path) -> list[str]:
        options = [f"--model={exported}", f"--images={phantoms}/dicom/*.dcm", "--shard_images=4"]
        return ["beam.predict", *options, f"--output={output}", "--runner=DirectRunner"]

    sweep(words, tmp_path, contents)


@exhaustive
@pytest.mark.parametrize("processes", [1, 2])
def test_the_verification_of_a_lake(lake, tmp_path, processes):
    def words(output: Path) -> list[str]:
        return ["lake", "verify", str(lake), f"--processes={processes}"]

    sweep(words, tmp_path, lambda output: contents(lake))


@exhaustive
def test_an_export(systems, tmp_path):
    def words(output: Path) -> list[str]:
        # An export is never written over another one.
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        options = map(str, systems["deep"])
        return ["trainer.task", "export", *options, f"--output={output}"]

    def result(output: Path) -> set[str]:
        assert [path.name for path in output.parent.iterdir()] == [output.name]
        return set(contents(output))

    sweep(words, tmp_path, result)
