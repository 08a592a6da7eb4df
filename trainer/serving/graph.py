"""An ensemble with its thresholds as one graph: files, or pixels as a lake stores them, in; what
predict writes of them out, by the steps that predict takes.

    probability [N] float32  p of a lesion, as in predictions.csv
    mask_bytes [N] string    PNG of 0 and 255 at the source's own size
    rle [N] string           as in submission.csv, `-1` of an empty mask
    lesion_px [N] int64      of the mask
    height, width [N] int64  of the source
    error [N] string         "", or why this one has no answer: NaN, "" and 0 then
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from lake import picture
from lake.predictions.exported import GRAPH, PIXELS, RECORDS, SIGNATURES, TFIO
from lake.scan import Storage
from lake.sources.reader import ReaderSettings as HowStored
from trainer.config import run
from trainer.data import record
from trainer.inference import decision, images
from trainer.inference.decision import Decision, Sizes
from trainer.inference.ensemble import CLASSIFIER_IMAGE, Ensemble
from trainer.serving import rle
from trainer.serving.decode import dicom as decode_dicom
from trainer.serving.decode import images as decode_images
from trainer.serving.decode import tfio
from trainer.serving.decode.dicom import StoredImage

DEFAULT = SIGNATURES["dicom"]
DAMAGED = "undecodable: damaged or cut off"
NO_WINDOW = "window: expected low < high"


class Server(NamedTuple):
    ensemble: Ensemble
    chosen: Decision
    storage: Storage

    def seen_files(self, files, reader: Callable) -> dict:
        """What the networks get of files [N] string."""

        def seen(data):
            return attempt(lambda: self._seen(reader(data, self.storage)), self._unseen(DAMAGED))

        return tf.map_fn(seen, files, fn_output_signature=self._item())

    def seen_pixels(self, levels, window) -> dict:
        """What they get of pixels [N, H, W] and windows [N, 2] as the lake stores them."""
        height, width = tf.unstack(tf.shape(levels)[1:])

        def seen(one):
            own, window = one
            error = tf.where(window[0] < window[1], "", NO_WINDOW)
            sizes = (height, width, height, width)
            return self._seen(StoredImage(tf.constant(""), own[..., None], *sizes, window, error))

        return tf.map_fn(seen, (levels, window), fn_output_signature=self._item())

    def seen_records(self, records) -> dict:
        """Return the networks' input of serialised records [N] string, as predict makes it."""

        def seen(serialized):
            item = images.item_for(self.ensemble, serialized, self._dtype().name, Sizes._fields)
            sizes = Sizes(*(tf.cast(item[name], tf.int32) for name in Sizes._fields))
            inputs = {name: item[name] for name in ("window", *self._inputs())}
            return inputs | {"sizes": sizes, "error": tf.constant("")}

        def seen_if_sound(serialized):
            return attempt(lambda: seen(serialized), self._unseen(DAMAGED))

        return tf.map_fn(seen_if_sound, records, fn_output_signature=self._item())

    def _inputs(self) -> dict[str, run.Data]:
        """The networks' images in a batch, each with its side and fit."""
        found, own = {"image": self.ensemble.settings}, self.ensemble.classifier_settings
        return found if own is None else found | {CLASSIFIER_IMAGE: own}

    def _item(self) -> dict:
        """What tf.map_fn makes a batch of."""
        return tf.nest.map_structure(tf.TensorSpec.from_tensor, self._unseen(""))

    def _seen(self, stored: StoredImage) -> dict:
        """One image as the networks get it, and what is known of it."""

        def seen() -> dict:
            images = {name: self._fitted(stored, data) for name, data in self._inputs().items()}
            sizes = Sizes(*(getattr(stored, name) for name in Sizes._fields))
            return images | {"window": stored.window, "sizes": sizes, "error": stored.error}

        return tf.cond(stored.error == "", seen, lambda: self._unseen(stored.error))

    def _unseen(self, error) -> dict:
        """_seen where there is no image: black."""
        images = {
            name: tf.zeros([data.side, data.side, 1], self._dtype())
            for name, data in self._inputs().items()
        }
        return images | {
            "window": tf.constant([0.0, 1.0]),
            "sizes": Sizes(*tf.unstack(tf.ones(len(Sizes._fields), tf.int32))),
            "error": tf.convert_to_tensor(error),
        }

    def _dtype(self) -> tf.DType:
        return tf.uint8 if self.storage.bits == 8 else tf.uint16

    def _fitted(self, stored: StoredImage, data: run.Data):
        size, dtype = (stored.height, stored.width), self._dtype()
        box = record.box_within(*size, data.side, data.fit)
        is_jpeg = stored.jpeg != ""
        return record.fit_image(
            is_jpeg, stored.jpeg, lambda: stored.pixels, size, dtype, data.side, box
        )

    def answers(self, seen: dict) -> dict:
        """A signature's outputs, of a batch of what the networks get."""
        is_known = seen["error"] == ""
        predicted = self.ensemble.outputs(
            {name: seen[name] for name in ("window", *self._inputs())}
        )
        lesion = predicted["lesion"]
        lesion = predicted["scores"] if lesion is None else lesion  # which then nothing asks for
        masks = tf.map_fn(
            lambda one: tf.cond(one[-1], lambda: self._finished(*one[:-1]), _nothing),
            (predicted["probabilities"], lesion, seen["sizes"], is_known),
            fn_output_signature={name: value.dtype for name, value in _nothing().items()},
        )
        probability = tf.cast(tf.sigmoid(tf.cast(predicted["scores"], tf.float64)), tf.float32)
        return masks | {
            "probability": tf.where(is_known, probability, math.nan),
            "error": seen["error"],
        }

    def _finished(self, probabilities, lesion, sizes: Sizes) -> dict:
        """Of one image's probabilities [S, S, 1]."""
        size = (sizes.original_height, sizes.original_width)
        mask = tf.cond(
            decision.is_plainly_empty(tf.reduce_max(probabilities), self.chosen, lesion),
            lambda: tf.zeros(size, tf.bool),
            lambda: decision.source_mask(
                probabilities, sizes, self.ensemble.settings, self.chosen, lesion
            ),
        )
        levels = tf.cast(mask, tf.uint8)[..., None] * 255
        return {
            "mask_bytes": tf.io.encode_png(levels, compression=picture.PNG_LEVEL),
            "rle": rle.encode_mask(mask),
            "lesion_px": tf.math.count_nonzero(mask),
            "height": tf.cast(size[0], tf.int64),
            "width": tf.cast(size[1], tf.int64),
        }


def _nothing() -> dict:
    """_finished of no image."""
    texts = dict.fromkeys(("mask_bytes", "rle"), tf.constant(""))
    return texts | dict.fromkeys(("lesion_px", "height", "width"), tf.constant(0, tf.int64))


def attempt(make: Callable, otherwise):
    """What `make` gives, or `otherwise`, of the same structure, where one of its ops fails.

    A graph has no `try`: an op that fails ends the whole call, and with it the other files of the
    batch. A dataset of one element may leave it out.
    """
    call = tf.autograph.experimental.do_not_convert(lambda _: make())
    tried = tf.data.Dataset.from_tensors(0).map(call).ignore_errors()
    return tried.concatenate(tf.data.Dataset.from_tensors(otherwise)).take(1).get_single_element()


def readers(decoder: str) -> dict[str, Callable]:
    """Signature -> what reads its files; `decoder`: of export's --decoder."""
    dicom = {GRAPH: decode_dicom.stored_image, TFIO: tfio.stored_image}[decoder]
    return {DEFAULT: dicom, SIGNATURES["images"]: decode_images.stored_image}


def signatures(server: Server, stored: HowStored, decoder: str) -> dict[str, ConcreteFunction]:
    """By name. Only pixels where the graph cannot do what the converter did: CLAHE, and all that is
    done to volumes."""

    answers = tf.function(server.answers, autograph=False)  # once in the graph, for all signatures

    def traced(seen: Callable, **inputs: tf.TensorSpec) -> ConcreteFunction:
        specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()]
        call = tf.function(lambda *given: answers(seen(*given)), specs, autograph=False)
        return call.get_concrete_function()

    dtype = tf.uint8 if stored.storage.bits == 8 else tf.uint16
    shapes = {"pixels": tf.TensorSpec([None] * 3, dtype), "window": tf.TensorSpec([None, 2])}
    found = {
        PIXELS: traced(server.seen_pixels, **shapes),
        RECORDS: traced(server.seen_records, records=tf.TensorSpec([None], tf.string)),
    }
    if not (stored.is_ct or stored.storage.clahe or stored.storage.lung_roi):
        for name, reader in readers(decoder).items():
            seen = functools.partial(server.seen_files, reader=reader)
            found[name] = traced(seen, files=tf.TensorSpec([None], tf.string))
    return found


def save(found: dict[str, ConcreteFunction], folder: str) -> None:
    """A SavedModel; its default signature is that of DICOM files."""
    module = tf.Module()
    used = {id(v): v for function in found.values() for v in function.graph.variables}
    module.weights = list(used.values())
    default = found.get(DEFAULT, found[PIXELS])
    names = {tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: default}
    tf.saved_model.save(module, folder, signatures=found | names)
