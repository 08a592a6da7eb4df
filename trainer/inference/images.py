"""The images of a prediction as records, from a split of a lake or from files that lie in none
(trainer/prediction/input_files.py) -> batches for an ensemble.

Batches are those of trainer/data/batches.py without the masks, and with the fields that the caller
names; items of weight 0 are padding, or files that turned out to be unreadable. Python's threads
read and decode (threads.py): in tf.data, an error beside a file that is being read would keep the
process from ending.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake import InputError, Reject, exam
from lake.predictions.folder import reject_row
from lake.records import example, manifest
from lake.records.identity import shards_sha256
from lake.scan import Header, Storage
from lake.sources.pixels import to_png
from lake.sources.reader import METAIMAGE, ReaderSettings
from trainer.config.run import Config
from trainer.data import batches as data_batches
from trainer.data import damage, splits
from trainer.data.record import decode_record, parse_record
from trainer.inference import threads
from trainer.inference.ensemble import CLASSIFIER_IMAGE, Ensemble
from trainer.workdir import LAKE, read_json

STORED_IMAGE = "stored_image"  # in a batch: the record's image as the lake stores it, coded
BATCHES_AHEAD = 2
PIXEL_OPTIONS = ("max_side", "window", "clahe", "lung_roi")  # of a lake's conversion


class ImagesToPredict(NamedTuple):
    """Serialised records, in a fixed order, and what is known about them beforehand."""

    # Yields a function per image; threads call them, and each returns a record. One without an id
    # stands for a rejected file.
    readers: Callable[[], Iterator[Callable[[], bytes]]]
    count: int
    dtype: str  # uint8 | uint16
    headers: dict[str, Header]  # by image id; empty for a lake
    rejects: list[dict]  # rows of rejects.csv; grows while the records are read
    identity: tuple = ()  # what says which images these are, as JSON has it
    num_left_out: int = 0  # files that are hidden or of the system
    remarks: dict[str, int] | None = None  # lake.exam.standings of the files; None for a lake
    is_known: bool = True  # what the lakes had
    title: str = ""  # the split and the lake in words; empty for files
    notes: list[str] = []  # what a reader has to know about the lake

    def records(self) -> Iterator[bytes]:
        """Yield the records one after the other, without threads."""
        return (read() for read in self.readers())

    def after(self, start: int) -> "ImagesToPredict":
        """Return the images from a place on."""
        return self._replace(
            readers=lambda: itertools.islice(self.readers(), start, None), count=self.count - start
        )

    def first(self, count: int) -> "ImagesToPredict":
        """Return the first images, at most `count`."""
        count = min(count, self.count)
        return self._replace(readers=lambda: itertools.islice(self.readers(), count), count=count)


def from_lake(folder: str, split: str) -> ImagesToPredict:
    """Return the images of a split; raise InputError where the lake has none of this name."""
    content = manifest.load(folder)
    subset = splits.named_split(content, folder, split)
    identity = split, [shard["sha256"] for shard in content["shards"]]

    def readers() -> Iterator[Callable[[], bytes]]:
        for record in data_batches.stored_records(subset).as_numpy_iterator():
            yield lambda record=record: record

    facts, title = (subset.num_records, subset.dtype, {}, []), manifest.split_title(split, content)
    return ImagesToPredict(readers, *facts, identity, title=title)


def batches(
    inputs: ImagesToPredict, ensemble: Ensemble, fields: tuple[str, ...], with_image: bool
) -> Iterator[dict]:
    """Yield batches of all images in their order, [B, …] of item_for's tensors; `with_image` adds
    STORED_IMAGE, [B] strings. Records without an id, which stand for no image, have weight 0."""
    blank = blank_record(8 if inputs.dtype == "uint8" else 16)
    decode = _decoder(ensemble, inputs.dtype, fields, with_image)

    def load(read: Callable[[], bytes]) -> dict:
        """Return the decoded record; of a file that TensorFlow cannot decode, a blank one, and add
        its reject."""
        record = read()
        try:
            return decode(tf.constant(record))
        except damage.ERRORS as error:
            image_id = parse_record(record, ["image_id"])["image_id"].numpy().decode()
            if image_id not in inputs.headers:  # of a lake: damage.locate_errors names its shard
                raise
            path, fault = inputs.headers[image_id].path, error.message.splitlines()[0]
            reject = Reject("undecodable", f"{path}: TensorFlow decodes no image: {fault}")
            inputs.rejects.append(reject_row(path, image_id, reject))
            return decode(tf.constant(blank))

    batch_size = ensemble.settings.batch_size
    # Blank records fill the last batch, so that all batches have one shape.
    padding = itertools.repeat(lambda: blank, -inputs.count % batch_size)
    items = threads.results(
        load, itertools.chain(inputs.readers(), padding), BATCHES_AHEAD * batch_size
    )
    while batch := list(itertools.islice(items, batch_size)):
        yield tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *batch)


def _decoder(
    ensemble: Ensemble, dtype: str, fields: tuple[str, ...], with_image: bool
) -> Callable[[tf.Tensor], dict]:
    """Return the function of a record that gives the tensors of an item of `batches`."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def decode(record) -> dict:
        with tf.device("CPU"):
            tensors = item_for(ensemble, record, dtype, fields)
            if with_image:
                tensors[STORED_IMAGE] = parse_record(record, ["image"])["image"]
            weight = tf.cast(tf.strings.length(tensors["image_id"]) > 0, tf.float32)
            return tensors | {"weight": weight}

    return decode.get_concrete_function()


def item_for(ensemble: Ensemble, record, dtype: str, fields: tuple[str, ...]) -> dict:
    """Return the tensors of trainer.data.record.decode_record for a record, without its mask, and
    CLASSIFIER_IMAGE where the classifiers take images of another side or fit."""
    settings, other = ensemble.settings, ensemble.classifier_settings
    tensors = decode_record(record, dtype, settings.side, settings.fit, fields, with_mask=False)
    if other is not None:
        classifier_tensors = decode_record(record, dtype, other.side, other.fit, with_mask=False)
        tensors[CLASSIFIER_IMAGE] = classifier_tensors["image"]
    return tensors


def blank_record(bits: int) -> bytes:
    """Return a record of one black pixel and without an id: it fills a batch."""
    black = to_png(np.zeros((1, 1), np.uint8 if bits == 8 else np.uint16))
    sizes = dict.fromkeys(("height", "width", "original_height", "original_width"), 1)
    image = {"image": black, "encoding": b"png", "window": (0.0, 1.0)}
    return example.encode(example.UNKNOWN | sizes | image)


def reader_settings(ensemble: Ensemble) -> ReaderSettings:
    """Return the settings with which files became the lakes of all members; raise InputError where
    they differ."""
    members = ensemble.everyone
    all_settings = [_read_settings(member.workdir, member.config) for member in members]
    expected, *others = all_settings
    for member, actual in zip(members[1:], others, strict=True):
        if (expected.is_ct, expected.storage) != (actual.is_ct, actual.storage):
            raise InputError(
                f"{members[0].workdir} learnt from a lake of {expected}, {member.workdir} from one "
                f"of {actual}; files are read one way, so expected lakes that were converted alike"
            )
    exams = []  # of different lakes: each network has to have learnt from what it is shown
    for settings in all_settings:
        exams += [counts for counts in settings.exams if counts not in exams]
    return expected._replace(exams=tuple(exams))


def _read_settings(workdir: Path, config: Config) -> ReaderSettings:
    """Return the settings with which files became the lake of a run, as its lake.json states them;
    raise InputError where it does not, and another lake is in its place."""
    content, lake = read_json(workdir / LAKE), config.lake
    if "options" not in content:  # the run started before lake.json had options
        content = manifest.load(lake)
        shards = read_json(workdir / LAKE).get("shards")
        is_other = not config.data.more_lakes and shards_sha256([content]) != shards
        if shards is not None and is_other:
            raise InputError(
                f"{lake} is another lake than the one that {workdir} learnt from, which says how "
                f"files are read; put that lake back"
            )
    options, bits = content["options"], 8 if content["dtype"] == "uint8" else 16
    storage = Storage(bits, **{name: options[name] for name in PIXEL_OPTIONS})
    is_ct, exams = options["source"] == METAIMAGE, _exams(workdir)
    return ReaderSettings(is_ct, options["image_id_from"], storage, exams)


def _exams(workdir: Path) -> tuple[dict, ...]:
    """Return the counts of what all images of a run's lakes show, together; () where they are not
    known: a lake or a run of an earlier radlake."""
    lakes = read_json(workdir / LAKE).get("lakes", [])
    counts = exam.total(lake.get("exams") for lake in lakes)
    return (counts,) if counts else ()
