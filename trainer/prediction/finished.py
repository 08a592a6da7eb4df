"""What an interrupted predict has finished, which the same command need not predict again.

In: rows of images as they are finished. Out: in `.work/` of the folder of predictions, parts: each
has the rows of the images from one place in their order to another. Whatever belongs to a row is
written before its part is. A folder belongs to one identity: networks, thresholds, images, options.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lake import InputError, signals, storage
from lake.predictions.folder import SUMMARY, FindingsRow, PredictionRow, row_type, tables
from lake.terminal.progress import Progress
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.inference.images import ImagesToPredict
from trainer.prediction import output_folder
from trainer.prediction.one_image import FinishedImage, OutputOptions
from trainer.prediction.output_folder import OWNER, WORK

VERSION = 2  # raise it when the predictions of the same images change
PART_SECONDS = 5.0  # so much is predicted again at most
DIFFERENCES = {  # what differs, by its name in an identity
    "version": "another version of radlake",
    "evaluated_as": "another --tta, --level or evaluation",
    "networks": "other networks",
    "decision": "other thresholds",
    "images": "other images",
    "options": "other options",
}


def identity(
    ensemble: Ensemble, decision: Decision, inputs: ImagesToPredict, options: OutputOptions
) -> dict:
    """Return all that the predictions depend on, as JSON has it."""
    members = ensemble.everyone
    configs = [member.config.model_dump(mode="json", exclude={"lake"}) for member in members]
    networks = json.dumps([ensemble.weights_sha256(), configs])
    content = {
        "version": VERSION,
        "evaluated_as": ensemble.label,
        "networks": hashlib.sha256(networks.encode()).hexdigest(),
        "decision": decision.to_json(),
        "images": hashlib.sha256(json.dumps(inputs.identity).encode()).hexdigest(),
        "options": options._asdict(),
    }
    return json.loads(json.dumps(content))


class FinishedImages:
    """The images that are finished in a folder: in order, all before the place `count`."""

    def __init__(
        self, folder: Path, owner: dict, inputs: ImagesToPredict, findings: Sequence[str] = ()
    ):
        """Claim the folder for the identity `owner`, and read what is finished there; raise
        InputError where it belongs to another one, or cannot be written. `findings`: those that
        the networks score."""
        output_folder.check(folder)
        self.folder, self.owner, self.inputs = folder, owner, inputs
        self.row_type, self.tables = row_type(findings), tables(findings)
        self.is_ct = any(header.geometry for header in inputs.headers.values())
        self.places = {image_id: place for place, image_id in enumerate(inputs.headers)}
        self.summary = self._read_summary()
        signals.set_repeat("the same command goes on")
        self._claim()
        self.parts = list(self._read_parts())
        self.count = self.parts[-1]["stop"] if self.parts else 0
        self.candidates = [line for part in self.parts for line in part["candidates"]]
        self.num_listed = len(inputs.rejects)  # what was rejected before it was read
        inputs.rejects.extend(reject for part in self.parts for reject in part["rejects"])
        self.saved_rejects = {_key(reject) for reject in inputs.rejects}
        self.num_candidates = len(self.candidates)
        self.shown = Progress("predicting", inputs.count, num_before=self.count)
        self._set_repeat_message()

    def rows_before(self) -> Iterator[PredictionRow | FindingsRow]:
        """Yield the rows of the images that were finished before this start."""
        for part in self.parts:
            yield from (self.row_type(*values) for values in part["rows"])

    def rows(self, images: Iterable[FinishedImage]) -> Iterator[PredictionRow | FindingsRow]:
        """Yield the rows that were finished before this start, then those of the other images as
        they come, and write the new ones down, so that another start goes on behind them."""
        yield from self.rows_before()
        rows, series, save_time = [], None, time.monotonic()
        for image in images:
            # What is made of a series of slices is there when the next one has begun.
            last_series, series = series, self._series(image)
            is_boundary = not self.is_ct or series != last_series
            if rows and is_boundary and time.monotonic() - save_time > PART_SECONDS:
                self._save(rows, image.place)
                rows, save_time = [], time.monotonic()
            rows.append(_as_json(image.row))
            self.shown.update(image.place + 1)
            yield image.row
        self.shown.update(self.inputs.count)
        # Images of the batch in which the last start was interrupted were read once more.
        rejects = {_key(reject): reject for reject in self.inputs.rejects}
        self.inputs.rejects[:] = rejects.values()

    def end(self, counts: dict) -> None:
        """Write down that all images are finished; `counts` are those of the tables."""
        self._write(self.folder / SUMMARY, {**self.owner, "counts": counts})
        self._remove_work()
        signals.set_repeat("all predictions are written")

    def _series(self, image: FinishedImage) -> str | None:
        return self.inputs.headers[image.row.image_id].series if self.is_ct else None

    def _save(self, rows: list[list], stop: int) -> None:
        """Write the part of the images from `count` to `stop`."""
        rejects = [
            reject
            for reject in self.inputs.rejects[self.num_listed :]
            if _key(reject) not in self.saved_rejects
            and self.places.get(reject["image_id"], -1) < stop
        ]
        self.saved_rejects |= {_key(reject) for reject in rejects}
        candidates = self.candidates[self.num_candidates :]
        self.num_candidates += len(candidates)
        part = {"start": self.count, "stop": stop, "rows": rows, "rejects": rejects}
        path = self.folder / WORK / f"{self.count:09d}.json"
        self._write(path, part | {"candidates": candidates})
        self.count = stop
        self._set_repeat_message()

    def _set_repeat_message(self) -> None:
        """Let the line of an interrupted command say how many images are finished."""
        signals.set_repeat(
            f"the same command goes on, {self.count:,} of {self.inputs.count:,} images are finished"
        )

    def _read_summary(self) -> dict | None:
        """Return the counts of finished predictions; None where they are not whole."""
        path = self.folder / SUMMARY
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        counts = content.pop("counts", None)
        self._check(content)
        if all((self.folder / name).exists() for name in self.tables):
            return counts
        path.unlink()  # somebody has removed a table
        return None

    def _claim(self) -> None:
        """Write the identity into the folder, or check the one that is there; raise InputError
        where they differ or the folder cannot be written."""
        work = self.folder / WORK
        path = work / OWNER
        if path.exists():
            self._check(json.loads(path.read_text()))
        elif self.summary is None:
            try:
                storage.make_folder(work)
                self._write(path, self.owner)
            except OSError as error:
                raise InputError(f"--output={self.folder}: {error.strerror or error}") from None
        else:
            self._remove_work()

    def _check(self, owner: dict) -> None:
        """Raise InputError where an earlier command had another identity."""
        changes = [
            text for name, text in DIFFERENCES.items() if owner.get(name) != self.owner[name]
        ]
        if changes:
            raise InputError(
                f"--output={self.folder} has predictions by {', '.join(changes)}; repeat the "
                f"command that began them to go on, or give a new folder"
            )

    def _read_parts(self) -> Iterator[dict]:
        """Yield the finished parts, each of which begins where the one before it stops."""
        stop = 0
        while (path := self.folder / WORK / f"{stop:09d}.json").exists():
            part = json.loads(path.read_text())
            yield part
            stop = part["stop"]

    def _write(self, path: Path, content: dict) -> None:
        storage.write(path, f"{json.dumps(content)}\n".encode())

    def _remove_work(self) -> None:
        work = self.folder / WORK
        if work.exists():
            for path in work.iterdir():
                path.unlink()
            if not storage.is_remote(work):
                work.rmdir()


def _as_json(row: PredictionRow | FindingsRow) -> list:
    """Return the values of a row in Python's types."""
    if isinstance(row, FindingsRow):
        return [row.image_id, [float(p) for p in row.probabilities]]
    area_mm2 = None if row.area_mm2 is None else float(row.area_mm2)
    return [row.image_id, row.rle, float(row.probability), int(row.lesion_px), area_mm2]


def _key(reject: dict) -> tuple:
    return tuple(reject.values())
