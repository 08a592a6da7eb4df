"""Compare an export with predict: whether both give the same answers, and how long each takes.

python -m trainer.task evaluate --workdir runs/unetpp
python benchmarks/parity.py --workdir runs/unetpp --images 'xrays/*.dcm' [--signature image]

Exports the workdir, loads the SavedModel and runs it and predict on the same files. Prints the
largest difference of an image's p, the share of equal mask pixels, the images whose masks differ,
the files that only one of them refuses, and milliseconds per image of each, including reading the
files. Both process a few files beforehand, so that no time goes into warming up TensorFlow.
"""

import argparse
import csv
import glob
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tensorflow as tf

from lake.labels import rle
from lake.predictions.exported import GRAPH
from lake.predictions.folder import PREDICTIONS_CSV, REJECTS_CSV, SUBMISSION_CSV
from trainer.inference import decision, ensemble, images
from trainer.prediction import input_files, predict
from trainer.prediction.one_image import OutputOptions
from trainer.serving import export

WARM_UP = 8  # files


class Answer(NamedTuple):
    probability: float
    text: str  # run lengths
    size: tuple[int, int] | None = None


def predict_answers(
    system: ensemble.Ensemble, paths: list[str], output: Path
) -> tuple[dict[str, Answer], dict[str, str]]:
    """Return answers, and reasons of rejects, by file name."""
    inputs = input_files.from_files(paths, images.reader_settings(system))
    predict.predict(system, decision.read_decision(system), inputs, output, OutputOptions())
    names = {image_id: Path(header.path).name for image_id, header in inputs.headers.items()}
    texts, facts = rows(output / SUBMISSION_CSV), rows(output / PREDICTIONS_CSV)
    answers = {
        names[text["ImageId"]]: Answer(float(fact["probability"]), text["EncodedPixels"])
        for text, fact in zip(texts, facts, strict=True)
    }
    rejects = rows(output / REJECTS_CSV)
    return answers, {Path(row["path"]).name: row["reason"] for row in rejects}


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def export_answers(
    call, paths: list[str], batch_size: int
) -> tuple[dict[str, Answer], dict[str, str]]:
    answers, errors = {}, {}
    for start in range(0, len(paths), batch_size):
        part = paths[start : start + batch_size]
        outputs = call(files=tf.constant([Path(path).read_bytes() for path in part]))
        outputs = {name: values.numpy() for name, values in outputs.items()}
        for number, path in enumerate(part):
            error, name = outputs["error"][number].decode(), Path(path).name
            if error:
                errors[name] = error
                continue
            size = int(outputs["height"][number]), int(outputs["width"][number])
            text = outputs["rle"][number].decode()
            answers[name] = Answer(float(outputs["probability"][number]), text, size)
    return answers, errors


def compare(expected: dict[str, Answer], actual: dict[str, Answer]) -> None:
    names = sorted(expected.keys() & actual.keys())
    differences, pixels, others, lesions = [], 0, [], 0
    for name in names:
        one, other = expected[name], actual[name]
        differences.append(abs(one.probability - other.probability))
        pixels += other.size[0] * other.size[1]
        lesions += one.text != rle.EMPTY
        if one.text != other.text:
            masks = (rle.decode(answer.text, *other.size) for answer in (one, other))
            others.append((name, int(np.not_equal(*masks).sum())))
    print(f"{len(names)} images answered by both, {lesions} with a lesion by predict")
    print(f"largest difference of p: {max(differences):.2g}")
    unequal = sum(count for _, count in others)
    print(f"equal pixels: {1 - unequal / pixels:.6%}; images with another mask: {len(others)}")
    for name, count in others[:10]:
        print(f"  {name}: {count:,} pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, nargs="+", type=Path)
    parser.add_argument("--classifier", nargs="+", default=[], type=Path)
    parser.add_argument("--tta", nargs="+", default=["none"])
    parser.add_argument("--images", required=True, nargs="+", help="patterns of files")
    parser.add_argument("--signature", default="dicom")
    parser.add_argument("--batch", type=int, default=16, help="files per call")
    flags = parser.parse_args()
    paths = sorted(path for pattern in flags.images for path in glob.glob(pattern, recursive=True))
    system = ensemble.load(flags.workdir, flags.classifier, flags.tta)
    with tempfile.TemporaryDirectory() as folder:
        print(export.export(system, Path(folder) / "exported", GRAPH))
        call = tf.saved_model.load(f"{folder}/exported").signatures[flags.signature]
        runs = {
            "predict": lambda some, name: predict_answers(system, some, Path(folder) / name),
            "export": lambda some, name: export_answers(call, some, flags.batch),
        }
        answers = {}
        for name, run in runs.items():
            run(paths[:WARM_UP], "warm")
            start = time.perf_counter()
            answers[name] = run(paths, "all")
            print(f"{name}: {1000 * (time.perf_counter() - start) / len(paths):.1f} ms per image")
    (expected, rejects), (actual, errors) = answers["predict"], answers["export"]
    compare(expected, actual)
    for title, names, reasons in (
        ("refused by the export alone", errors.keys() - rejects.keys(), errors),
        ("refused by predict alone", rejects.keys() - errors.keys(), rejects),
    ):
        print(f"{title}: {len(names)}")
        for name in sorted(names):
            print(f"  {name}: {reasons[name]}")


if __name__ == "__main__":
    main()
