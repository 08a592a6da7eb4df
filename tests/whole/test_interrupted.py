"""Every long command, ended by Ctrl-C, SIGTERM and kill -9 at moments from its first to its last:
its exit code and its last line, and that the same command then ends as an undisturbed one."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from makers import interruptions
from makers.marks import exhaustive

MOMENTS = int(os.environ.get("RADLAKE_MOMENTS", 20))  # of each command
TINY = """
model: {kind: unet, depth: 1, filters: 2}
data: {side: 32, batch_size: 4}
train: {epochs: 2, steps_per_call: 2, jit: false, deterministic: true, checkpoint_minutes: 1.0e-9}
"""
# The rows of an interrupted predict are kept every five seconds; here after every image.
PREDICT = """
import sys
from lake import signals
signals.arm()
from lake.terminal import cli
from trainer import task
cli.begin()
from trainer.prediction import finished
finished.PART_SECONDS = 0.0
cli.end(task.main(sys.argv[1:]))
"""


def sweep(
    words: Callable[[Path], list[str]],
    folder: Path,
    result: Callable[[Path], object],
    code: int | None = None,
) -> None:
    interruptions.sweep(words, folder, result, MOMENTS, code)


def contents(folder: Path) -> dict[str, bytes]:
    """Return {name: bytes} of the files in a folder, without notes of who works there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@exhaustive
def test_a_conversion(phantoms, key_file, tmp_path):
    def words(output: Path) -> list[str]:
        arguments = [f"--images={phantoms}/dicom/*.dcm", f"--labels={phantoms}/train-rle.csv"]
        arguments += [f"--deidentify_key_file={key_file}", "--runner=DirectRunner"]
        return ["-m", "beam.convert", *arguments, f"--output={output}", "--min_shards=8"]

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
        return ["-m", "trainer.task", "train", *options]

    def result(output: Path) -> tuple:
        metrics = json.loads((output / "metrics.json").read_text())
        return metrics["last"], metrics["best"]

    sweep(words, tmp_path, result, code=42)


@exhaustive
def test_a_search_for_a_learning_rate(lake, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)

    def words(output: Path) -> list[str]:
        options = [f"--config={config}", f"--lake={lake}", f"--workdir={output}"]
        rates = ["--steps=60", "--lowest=1e-6", "--highest=10"]
        return ["-m", "trainer.task", "find_lr", *options, *rates]

    def result(output: Path) -> bytes:
        [_] = output.rglob("events.*")
        assert (output / "find_lr" / "lr_finder.png").exists()  # its title has the date
        return (output / "find_lr" / "lr_finder.json").read_bytes()

    sweep(words, tmp_path, result)


@exhaustive
def test_an_evaluation(lake, systems, tmp_path):
    source = Path(systems["deep"][1]).with_name("segmenter")

    def words(output: Path) -> list[str]:
        if not output.exists():
            shutil.copytree(source, output)
        return ["-m", "trainer.task", "evaluate", f"--workdir={output}", "--bootstrap=50"]

    def result(output: Path) -> dict:
        return json.loads((output / "metrics.json").read_text())["evaluate"]["splits"]

    sweep(words, tmp_path, result)


@exhaustive
def test_predictions_of_files(phantoms, systems, tmp_path):
    def words(output: Path) -> list[str]:
        options = [*map(str, systems["deep"]), f"--input={phantoms / 'dicom'}", "--overlays"]
        return ["-c", PREDICT, "predict", *options, f"--output={output}", "--probabilities"]

    sweep(words, tmp_path, contents)


@exhaustive
def test_predictions_by_an_export(phantoms, exported, tmp_path):
    def words(output: Path) -> list[str]:
        options = [f"--model={exported}", f"--images={phantoms}/dicom/*.dcm", "--shard_images=4"]
        return ["-m", "beam.predict", *options, f"--output={output}", "--runner=DirectRunner"]

    sweep(words, tmp_path, contents)


@exhaustive
@pytest.mark.parametrize("processes", [1, 2])
def test_the_verification_of_a_lake(lake, tmp_path, processes):
    def words(output: Path) -> list[str]:
        return ["-m", "lake", "verify", str(lake), f"--processes={processes}"]

    sweep(words, tmp_path, lambda output: contents(lake))


@exhaustive
def test_an_export(systems, tmp_path):
    def words(output: Path) -> list[str]:
        # An export is never written over another one.
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        options = map(str, systems["deep"])
        return ["-m", "trainer.task", "export", *options, f"--output={output}"]

    def result(output: Path) -> set[str]:
        assert [path.name for path in output.parent.iterdir()] == [output.name]
        return set(contents(output))

    sweep(words, tmp_path, result)


@exhaustive
def test_a_vote(tmp_path):
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for number, path in enumerate(paths):
        with path.open("w") as file:
            writer = csv.writer(file)
            writer.writerow(("ImageId", "EncodedPixels"))
            writer.writerows((f"i{k:04d}", f"{1 + number} {k % 90 + 1}") for k in range(300))

    def words(output: Path) -> list[str]:
        output.mkdir(parents=True, exist_ok=True)
        return ["-m", "radlake", "vote", *map(str, paths), f"--output={output / 'vote.csv'}"]

    sweep(words, tmp_path, contents)
