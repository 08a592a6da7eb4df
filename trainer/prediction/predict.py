"""Networks and images -> a folder with a row of submission.csv for each image, and what else is
asked for.

Images stream through: while the networks work on a batch, threads finish the ones before it
(trainer/prediction/one_image.py); rows are written in the order of the images. What could not be
made is a row of rejects.csv."""

import collections
import concurrent.futures
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lake import InputError, storage
from lake.predictions import candidates, seg, submission
from lake.predictions.folder import (
    PREDICTION_COLUMNS,
    PREDICTIONS_CSV,
    REJECT_COLUMNS,
    REJECTS_CSV,
    SUBMISSION_CSV,
)
from trainer.data import damage
from trainer.inference import decision, images
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.inference.images import ImagesToPredict
from trainer.prediction import input_files, output_folder
from trainer.prediction.one_image import (
    FIELDS,
    OVERLAYS,
    PROBABILITIES,
    SEGS,
    FinishedImage,
    ImageFinisher,
    ImagePrediction,
    OutputOptions,
)

CANDIDATES = "candidates.csv"
BATCHES_WAITING = 2  # whose images may be predicted and not yet written


def predict(
    ensemble: Ensemble,
    chosen: Decision,
    asked: ImagesToPredict,
    output: Path,
    wanted: OutputOptions,
) -> str:
    """Writes all that is wanted into the new folder `output`; returns a line to print."""
    check(ensemble, asked, wanted)
    folders = {OVERLAYS: wanted.overlays, PROBABILITIES: wanted.probabilities, SEGS: wanted.finding}
    storage.make_new_folder(output, [name for name, is_wanted in folders.items() if is_wanted])
    finish = ImageFinisher(ensemble.settings, chosen, asked, output, wanted)
    count = lesions = 0
    with contextlib.ExitStack() as stack:

        def table(name: str, columns: tuple[str, ...]) -> output_folder.Table:
            return stack.enter_context(output_folder.Table(output / name, columns))

        rows = table(SUBMISSION_CSV, submission.HEADER)
        facts = table(PREDICTIONS_CSV, PREDICTION_COLUMNS)
        finder = None
        if wanted.candidates:
            finder = stack.enter_context(Finder(asked, table(CANDIDATES, candidates.HEADER)))
        all_said = predict_images(ensemble, asked, wanted.overlays)
        for one in in_threads(finish, all_said, BATCHES_WAITING * ensemble.settings.batch_size):
            rows.write(one.image_id, one.text)
            area = "" if one.area_mm2 is None else f"{one.area_mm2:.6g}"
            facts.write(one.image_id, f"{one.probability:.6g}", one.lesion_px, area)
            asked.rejects.extend(one.rejects)
            count, lesions = count + 1, lesions + (one.lesion_px > 0)
            if finder:
                finder.add(one)
        write_rejects(asked.rejects, output)  # the submission is whole last
    return summary(count, lesions, asked.rejects, output)


def output_options(flags) -> OutputOptions:
    """Of the command line; raises InputError for what does not go together."""
    seg.check_options(flags.seg, flags.mint_uids)
    wanted = (flags.overlays, flags.probabilities, flags.candidates, flags.seg, flags.mint_uids)
    return OutputOptions(*wanted)


def run(
    ensemble: Ensemble,
    lake: str | None,
    split: str,
    inputs: Sequence[str],
    output: Path,
    wanted: OutputOptions,
) -> str:
    """predict over files, or over a split of a lake (default: the run's own), with the thresholds
    that evaluate chose."""
    chosen = decision.read(ensemble)
    storage.check_new(output)  # before the headers of all files are read
    if inputs:
        asked = input_files.from_files(inputs, images.reader_settings(ensemble))
        return predict(ensemble, chosen, asked, output, wanted)
    folder = lake or ensemble.run.lake
    with damage.explained(ensemble.run, folder):
        return predict(ensemble, chosen, images.from_lake(folder, split), output, wanted)


def check(ensemble: Ensemble, asked: ImagesToPredict, wanted: OutputOptions) -> None:
    """Raises InputError for what these networks and images cannot give."""
    ensemble.check_draws_masks()
    is_ct = any(header.geometry for header in asked.headers.values())
    if wanted.candidates and not is_ct:
        raise InputError(
            "--candidates needs to know where slices lie in the patient, which neither radiographs "
            "nor a lake say; give the CT volumes themselves to --input, with networks that learnt "
            "from CT"
        )
    if wanted.finding and not asked.headers:
        raise InputError("--seg refers to source files; give them to --input instead of --lake")


def predict_images(
    ensemble: Ensemble, asked: ImagesToPredict, with_image: bool
) -> Iterator[ImagePrediction]:
    """What the networks say of each image, without padding and rejects."""
    for batch in images.batches(asked, ensemble, FIELDS, with_image):
        predicted = ensemble(batch)
        known = {name: values.numpy() for name, values in batch.items() if name != "image"}
        probabilities, lesion, scores = (
            None if part is None else part.numpy() for part in predicted
        )
        for number in np.flatnonzero(known["weight"]):
            item = {name: values[number] for name, values in known.items()}
            p = None if lesion is None else lesion[number]
            yield ImagePrediction(item, probabilities[number], p, scores[number])


def in_threads(finish, all_said: Iterator[ImagePrediction], limit: int) -> Iterator[FinishedImage]:
    """`finish` of each, in their order; so many wait at most, for memory to stay flat."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = collections.deque()
        for said in all_said:
            waiting.append(pool.submit(finish, said))
            while waiting and (waiting[0].done() or len(waiting) > limit):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Finder:
    """A context that gathers the slices of a series, which come one after the other, and writes its
    candidates when the next begins."""

    def __init__(self, asked: ImagesToPredict, table: output_folder.Table):
        self.asked, self.table, self.series = asked, table, None

    def __enter__(self) -> "Finder":
        return self

    def add(self, one: FinishedImage) -> None:
        header = self.asked.headers[one.image_id]
        if self.series is None or header.series != self.series.uid:
            self._write()
            self.series = candidates.Series(header.series)
        if one.lesion_px:
            place = int(one.image_id.rpartition("#")[2])  # as lake.sources.frame_id numbers slices
            self.series.add(header.geometry, place, one.mask, one.at_source)

    def __exit__(self, error_type, *_):
        if error_type is None:
            self._write()

    def _write(self) -> None:
        for one in self.series.candidates() if self.series else ():
            numbers = (*one.center_mm, one.diameter_mm, one.probability)
            self.table.write(self.series.uid, *(f"{number:.6g}" for number in numbers))


def write_rejects(rejects: list[dict], output: Path) -> None:
    rejects.sort(key=lambda row: (row["path"], row["image_id"], row["what"]))
    with output_folder.Table(output / REJECTS_CSV, REJECT_COLUMNS) as table:
        for row in rejects:
            table.write(*(row[name] for name in REJECT_COLUMNS))


def summary(count: int, lesions: int, rejects: list[dict], output: Path) -> str:
    """Says what was done."""
    lost = sum(row["what"] == "image" for row in rejects)
    said = f"{count:,} images predicted, {lesions:,} with a lesion; {lost:,} rejected"
    if len(rejects) > lost:
        said += f", {len(rejects) - lost:,} without a SEG"
    return f"{said}{f' ({output / REJECTS_CSV} says why)' if rejects else ''}: {output}"
