"""Networks and images -> a folder with a row of submission.csv per image, and the other files that
the options ask for; networks that score findings give a row of predictions.csv alone.

Images stream through: while the networks work on a batch, threads finish the images before it
(trainer/prediction/one_image.py); rows are written in the order of the images. An
image or a SEG that could not be made is a row of rejects.csv.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lake import InputError, Stopped, exam, storage
from lake.predictions import candidates, folder, seg, submission
from lake.predictions.folder import PREDICTIONS_CSV, REJECTS_CSV, SEGS
from lake.predictions.seg_series import SegRequest
from trainer.data import damage
from trainer.inference import images, kinship, threads
from trainer.inference.decision import Decision, describe_masks, read_decision_or_none
from trainer.inference.ensemble import Ensemble
from trainer.inference.images import ImagesToPredict
from trainer.prediction import finished, input_files, one_image, output_folder, series_segs
from trainer.prediction.finished import FinishedImages
from trainer.prediction.one_image import FinishedImage, ImagePrediction, OutputOptions
from trainer.prediction.output_folder import create

BATCHES_WAITING = 2  # so many may be predicted and not yet written
NEED_MASKS = ("overlays", "probabilities", "candidates", "seg")  # of the options


def predict(
    ensemble: Ensemble,
    decision: Decision,
    inputs: ImagesToPredict,
    output: Path,
    options: OutputOptions,
) -> str:
    """Write the tables and what `options` ask for into the folder `output`, which is new or has
    what the same command has finished before; return the line to print. Raises InputError for what
    the networks and images cannot give, and Stopped where every image was rejected."""
    check(ensemble, inputs, options)
    ensemble = ensemble.with_calibration(decision.calibration)
    owner = finished.identity(ensemble, decision, inputs, options)
    findings = ensemble.findings
    done = FinishedImages(output, owner, inputs, findings)
    if done.summary:
        lines = summary(done.summary, inputs, output)
        return f"{lines}\nnothing was written: {output} has all of this"
    for name in (one_image.OVERLAYS, one_image.PROBABILITIES, SEGS):
        if getattr(options, name):  # the folder has the option's name
            storage.make_folder(output / name)
    networks = ensemble.title, ensemble.settings
    finish = one_image.ImageFinisher(*networks, decision, inputs, output, options)
    finish = one_image.finish_findings if findings else finish
    # Closed whatever happens, so that no thread outlives an error.
    predictions = predict_images(ensemble, inputs, options.overlays, done.count)
    with contextlib.closing(predictions):
        num_waiting = BATCHES_WAITING * ensemble.settings.batch_size
        finished_images = threads.results(finish, predictions, num_waiting)
        with contextlib.closing(finished_images):
            if options.seg:
                request = seg_request(ensemble, decision, options)
                finished_images = series_segs.write(finished_images, done, output, request)
            rows = done.rows(with_files(finished_images, done, output, options))
            counts = folder.write_tables(
                lambda name: create(output / name), rows, inputs.rejects, findings=findings
            )
    counts |= {} if inputs.remarks is None else {"exams": inputs.remarks}
    counts |= {"notes": inputs.notes} if inputs.notes else {}
    done.end(counts)
    return summary(counts, inputs, output)


def with_files(
    finished_images: Iterator[FinishedImage],
    done: FinishedImages,
    output: Path,
    options: OutputOptions,
) -> Iterator[FinishedImage]:
    """Return the images as they come; on the way, with --candidates, those of each series are
    written."""
    if options.candidates:
        return write_candidates(finished_images, done, output)
    return finished_images


def seg_request(ensemble: Ensemble, decision: Decision, options: OutputOptions) -> SegRequest:
    """Return which DICOM SEG files the options ask for, and the algorithm that they name."""
    algorithm = seg.algorithm(describe_masks(ensemble, decision), options.any_modality)
    return SegRequest(options.seg, options.mint_uids, algorithm)


def output_options(flags) -> OutputOptions:
    """Return the options of the command line; raise InputError for what does not go together."""
    seg.check_options(flags.seg, flags.mint_uids)
    return OutputOptions(*(getattr(flags, name) for name in OutputOptions._fields))


def run(
    ensemble: Ensemble,
    lake: str | None,
    split: str,
    paths: Sequence[str],
    output: Path,
    options: OutputOptions,
) -> str:
    """Predict the files of `paths`, or if there are none a split of a lake (None: the run's own),
    with the thresholds that evaluate chose; return the lines to print."""
    output_folder.check(output)  # before the headers of all files are read
    if paths:
        decision = read_decision_or_none(ensemble)
        settings = images.reader_settings(ensemble)._replace(any_modality=options.any_modality)
        inputs = input_files.from_files(paths, settings)
        return predict(ensemble, decision, inputs, output, options)
    in_use = kinship.lake_in_use(ensemble, lake)
    decision = read_decision_or_none(ensemble, in_use.label(ensemble))
    damage.check_shards(in_use.manifest, in_use.folder, [split], ensemble.settings)
    with damage.locate_errors(ensemble.config, in_use.folder):
        inputs = images.from_lake(in_use.folder, split)._replace(notes=in_use.notes)
        line = predict(ensemble, decision, inputs, output, options)
    return "\n".join([line, *in_use.notes])


def check(ensemble: Ensemble, inputs: ImagesToPredict, options: OutputOptions) -> None:
    """Raise InputError for what these networks and images cannot give."""
    ensemble.check_has_answers()
    names = [name for name in NEED_MASKS if ensemble.findings and getattr(options, name)]
    if names:
        raise InputError(
            f"--{names[0]} needs masks, and {ensemble.title} draws none: it scores "
            f"{len(ensemble.findings)} findings, whose probabilities are in {PREDICTIONS_CSV}"
        )
    is_ct = any(header.geometry for header in inputs.headers.values())
    if options.candidates and not is_ct:
        raise InputError(
            "--candidates needs to know where slices lie in the patient, which neither radiographs "
            "nor a lake say; give the CT volumes themselves to --input, with networks that learnt "
            "from CT"
        )
    if options.seg and not inputs.headers:
        raise InputError("--seg refers to source files; give them to --input instead of --lake")


def predict_images(
    ensemble: Ensemble, inputs: ImagesToPredict, with_image: bool, first_place: int = 0
) -> Iterator[ImagePrediction]:
    """Yield the networks' prediction for each image from a place on, without padding and rejects. A
    batch is the same wherever an earlier start ended, and so is what comes of it."""
    size = ensemble.settings.batch_size
    start = first_place // size * size
    batches = images.batches(inputs.after(start), ensemble, one_image.FIELDS, with_image)
    for batch_place, batch in zip(itertools.count(start, size), batches, strict=False):
        outputs = ensemble(batch)
        columns = {name: values.numpy() for name, values in batch.items() if name != "image"}
        probabilities, lesion, scores = (t if t is None else t.numpy() for t in outputs)
        for number in map(int, np.flatnonzero(columns["weight"])):
            place = batch_place + number
            if place < first_place:
                continue
            fields = {name: values[number] for name, values in columns.items()}
            p = None if lesion is None else lesion[number]
            p_map = None if probabilities is None else probabilities[number]
            yield ImagePrediction(fields, p_map, p, scores[number], place)


def write_candidates(
    finished_images: Iterable[FinishedImage], done: FinishedImages, output: Path
) -> Iterator[FinishedImage]:
    """Yield the images as they come, and write the candidates of each series after its last slice;
    the slices of a series come one after the other."""
    headers = done.inputs.headers
    with create(output / candidates.CANDIDATES_CSV) as file:
        file.write(submission.csv_line(candidates.HEADER))
        file.writelines(line.encode() for line in done.candidates)
        for uid, slices in itertools.groupby(
            finished_images, lambda image: headers[image.row.image_id].series
        ):
            series = candidates.Series(uid)
            for image in slices:
                if image.row.lesion_px:
                    image_id = image.row.image_id
                    place = int(image_id.rpartition("#")[2])  # as lake.scan.frame_id numbers slices
                    plane = headers[image_id].geometry
                    series.add(plane, place, image.mask, image.probabilities)
                yield image
            for candidate in series.candidates():
                numbers = (*candidate.center_mm, candidate.diameter_mm, candidate.probability)
                cells = (uid, *(f"{number:.6g}" for number in numbers))
                line = submission.csv_line(cells)
                file.write(line)
                done.candidates.append(line.decode())


def summary(counts: dict, inputs: ImagesToPredict, output: Path) -> str:
    """Return a line about the counts of folder.write_tables, and what is to be said of files that
    show other things than the lake's; raise Stopped where every image was rejected."""
    num_left_out = inputs.num_left_out
    without_seg = f", {counts['without_seg']:,} without a SEG" if counts["without_seg"] else ""
    left_out = f", {num_left_out:,} files of the system or hidden left out" if num_left_out else ""
    has_rejects = counts["rejected"] or counts["without_seg"]
    where = f" ({output / REJECTS_CSV} says why)" if has_rejects else ""
    line = (
        f"{counts['predicted']:,} images predicted, {folder.answer(counts)}; "
        f"{counts['rejected']:,} rejected{without_seg}{left_out}{where}: {output}"
    )
    lines = [line]
    if inputs.remarks is not None:
        lines += exam.sentences(inputs.remarks, counts["reasons"], inputs.is_known)
    if not counts["predicted"]:
        raise Stopped("\n".join(lines))
    return "\n".join(lines)
