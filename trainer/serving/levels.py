"""The levels L1 … Lk of one U-Net++ trained with deep supervision: an export of each, and a table
of their dice and their costs.
"""

import shlex
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from lake import InputError, storage
from lake.predictions.exported import PIXELS
from lake.records import manifest
from lake.terminal import cli
from trainer import workdir
from trainer.data.record import parse_record
from trainer.inference import images
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.serving import export, output_folder

TABLES = ("levels.json", "levels.md")
SPLIT = "test"  # its dice is in the table, and its first images are timed
IMAGES, ROUNDS = 3, 5  # images and rounds of the measured latency, after a round that warms up


class Level(NamedTuple):
    """One row of the table."""

    level: int
    test_dice: float | None  # as evaluate scored it; None: the lake has no such split
    interval: list[float] | None  # 95%
    ms_per_image: float  # of the signature `pixels`, one image per call, as the lake stores it
    parameters: int
    megabytes: float  # of the export's folder


def export_all(
    load: Callable[[int | None], Ensemble], output: Path, decoder: str, any_modality: bool = False
) -> str:
    """Write output/l1, output/l2, … and the table; return what to print.

    `load` returns the ensemble of a level, and for None that of the deepest level; `any_modality`
    as in export.export.
    """
    deepest = getattr(load(None).config.model, "depth", 1)
    ensembles = {level: load(level) for level in range(1, deepest + 1)}
    decisions = _decisions(ensembles)
    inputs = _inputs(ensembles[deepest])
    with output_folder.whole(output) as folder:
        for level, ensemble in ensembles.items():
            part = folder / f"l{level}"
            part.mkdir()
            options = {"any_modality": any_modality}
            names = export.write(ensemble, decisions[level], part, decoder, **options)
        latencies = _latencies_ms([folder / f"l{level}" for level in ensembles], inputs)
        rows = [
            _row(ensemble, folder / f"l{level}", ms)
            for (level, ensemble), ms in zip(ensembles.items(), latencies, strict=True)
        ]
        table = _table(rows)
        workdir.write_json(folder / TABLES[0], {"levels": [row._asdict() for row in rows]})
        storage.write(folder / TABLES[1], table.encode())
    return f"{table}{export.example(output / f'l{deepest}', names, decoder)}"


def _decisions(ensembles: dict[int, Ensemble]) -> dict[int, Decision]:
    """Return the thresholds of each level; raise InputError with the commands that are missing."""
    decisions, commands, errors = {}, [], []
    for level, ensemble in ensembles.items():
        try:
            decisions[level] = export.check(ensemble)
        except InputError as error:
            commands.append(_command(ensemble))
            errors.append(str(error))
    if commands:
        raise InputError("\n  ".join([f"{errors[0]}:", *commands]))
    return decisions


def _command(ensemble: Ensemble) -> str:
    """Return the command that evaluates the ensemble."""
    parts = ["--workdir", *(str(member.workdir) for member in ensemble.segmenters)]
    if ensemble.classifiers:
        parts += ["--classifier", *(str(member.workdir) for member in ensemble.classifiers)]
    parts += [] if ensemble.tta == ("none",) else ["--tta", *ensemble.tta]
    command = cli.typed_command("trainer.task evaluate")
    return f"{command} {shlex.join([*parts, f'--level={ensemble.level}'])}"


def _evaluation_entry(ensemble: Ensemble) -> dict:
    return workdir.read_json(ensemble.members[0].workdir / workdir.METRICS)[ensemble.label]


def _inputs(ensemble: Ensemble) -> list[dict]:
    """Return inputs of `pixels`: a few images of the lake that evaluate scored."""
    folder = _evaluation_entry(ensemble)["lake"]
    has_test = manifest.load(folder)["counts"]["splits"].get(SPLIT, {}).get("records")
    inputs = images.from_lake(folder, SPLIT if has_test else ensemble.config.data.val_split)

    def pixels_and_window(record: bytes) -> dict:
        fields = parse_record(record, ("image", "window"))
        dtype = tf.as_dtype(inputs.dtype)
        levels = tf.io.decode_image(fields["image"], 1, dtype, expand_animations=False)
        return {"pixels": levels[None, ..., 0], "window": fields["window"][None]}

    return [pixels_and_window(record) for record in inputs.first(IMAGES).records()]


def _latencies_ms(folders: list[Path], images: list[dict]) -> list[float]:
    """Return the median latency of each SavedModel per image. They take turns, and the first round,
    which warms them up, does not count."""
    calls = [
        tf.saved_model.load(storage.without_pattern(str(folder))).signatures[PIXELS]
        for folder in folders
    ]
    latencies = [[] for _ in folders]
    for round_number in range(ROUNDS + 1):
        for inputs in images:
            for call, seconds in zip(calls, latencies, strict=True):
                start = time.perf_counter()
                call(**inputs)["lesion_px"].numpy()
                if round_number > 0:
                    seconds.append(time.perf_counter() - start)
    return [1000 * statistics.median(seconds) for seconds in latencies]


def _row(ensemble: Ensemble, folder: Path, ms: float) -> Level:
    """Return one line of the table: scores, latency and size of an exported level."""
    entry, name = _evaluation_entry(ensemble), "dice_mean"
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Level(
        level=ensemble.level,
        test_dice=entry["splits"].get(SPLIT, {}).get(name),
        interval=entry["intervals"].get(SPLIT, {}).get(name),
        ms_per_image=ms,
        parameters=export.num_parameters(ensemble),
        megabytes=num_bytes / 1e6,
    )


def _table(rows: list[Level]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| level | test dice (95%) | ms per image | parameters | MB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        dice = "-" if row.test_dice is None else f"{row.test_dice:.4f}"
        dice += "" if row.interval is None else " [{:.3f}, {:.3f}]".format(*row.interval)
        lines.append(
            f"| L{row.level} | {dice} | {row.ms_per_image:.0f} | {row.parameters:,} | "
            f"{row.megabytes:.1f} |"
        )
    return "\n".join(lines) + "\n"
