"""An ensemble with its thresholds as one graph: files, or pixels as a lake stores them, in; what
predict writes of them out, by the steps that predict takes.

    probability [N] float32  p of a lesion, as in predictions.csv
    mask_bytes [N] string    PNG of 0 and 255 at the source's own size
    rle [N] string           as in submission.csv, `-1` of an empty mask
    lesion_px [N] int64      of the mask
    height, width [N] int64  of the source
    error [N] string         "", or why this one has no answer: NaN, "" and 0 then
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from lake.sources import Storage
from trainer import config, decision, image_graph, output_files, pixels, rle_graph, storing
from trainer.decision import Decision, Sizes
from trainer.ensemble import CLASSIFIER_IMAGE, Ensemble
from trainer.loose import Stored as HowStored
from trainer.storing import Stored

# Signature -> what reads its files.
READERS = {"image": image_graph.stored}
PIXELS, DEFAULT = "pixels", "dicom"
DAMAGED = "undecodable: its pixel data are damaged or cut off"
NO_WINDOW = "window: expected low < high"


class Server(NamedTuple):
    ensemble: Ensemble
    chosen: Decision
    storage: Storage

    def of_files(self, files, reader: Callable) -> dict:
        """Answers for files [N] string."""

        def seen(data):
            return self._seen(reader(data, self.storage))

        return self._answers(tf.map_fn(seen, files, fn_output_signature=self._item()))

    def of_pixels(self, levels, window) -> dict:
        """Answers for pixels [N, H, W] and windows [N, 2] as the lake stores them."""
        height, width = tf.unstack(tf.shape(levels)[1:])

        def seen(one):
            own, window = one
            error = tf.where(window[0] < window[1], "", NO_WINDOW)
            sizes = (height, width, height, width)
            return self._seen(Stored(tf.constant(""), own[..., None], *sizes, window, error))

        return self._answers(tf.map_fn(seen, (levels, window), fn_output_signature=self._item()))

    def _inputs(self) -> dict[str, config.Data]:
        """The networks' images in a batch, each with its side and fit."""
        found, own = {"image": self.ensemble.settings}, self.ensemble.own_classifier_input
        return found if own is None else found | {CLASSIFIER_IMAGE: own}

    def _item(self) -> dict:
        """What _seen gives."""
        dtype = storing.dtype_of(self.storage)
        images = {
            name: tf.TensorSpec([data.side, data.side, 1], dtype)
            for name, data in self._inputs().items()
        }
        return images | {
            "window": tf.TensorSpec([2], tf.float32),
            "sizes": Sizes(*[tf.TensorSpec([], tf.int32)] * len(Sizes._fields)),
            "error": tf.TensorSpec([], tf.string),
        }

    def _seen(self, stored: Stored) -> dict:
        """One image as the networks get it; black where there is none."""
        black = {
            name: tf.zeros([data.side, data.side, 1], storing.dtype_of(self.storage))
            for name, data in self._inputs().items()
        }

        def fitted() -> dict:
            return {name: self._fitted(stored, data) for name, data in self._inputs().items()}

        # Only a decoder knows whether the scan of a JPEG is whole.
        images, error = tf.cond(
            stored.error == "",
            lambda: storing.attempt(lambda: (fitted(), tf.constant("")), (black, DAMAGED)),
            lambda: (black, stored.error),
        )
        is_known = error == ""
        return images | {
            "window": tf.where(is_known, stored.window, [0.0, 1.0]),
            "sizes": Sizes(*(getattr(stored, name) for name in Sizes._fields)),
            "error": error,
        }

    def _fitted(self, stored: Stored, data: config.Data):
        size, dtype = (stored.height, stored.width), storing.dtype_of(self.storage)
        box = pixels.fitted_box(*size, data.side, data.fit)
        is_jpeg = stored.jpeg != ""
        return pixels.fitted(
            is_jpeg, stored.jpeg, lambda: stored.pixels, size, dtype, data.side, box
        )

    def _answers(self, seen: dict) -> dict:
        """The signature's outputs of a batch of _seen."""
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
            "mask_bytes": tf.io.encode_png(levels, compression=output_files.PNG_LEVEL),
            "rle": rle_graph.text_of(mask),
            "lesion_px": tf.math.count_nonzero(mask),
            "height": tf.cast(size[0], tf.int64),
            "width": tf.cast(size[1], tf.int64),
        }


def _nothing() -> dict:
    """_finished of no image."""
    texts = dict.fromkeys(("mask_bytes", "rle"), tf.constant(""))
    return texts | dict.fromkeys(("lesion_px", "height", "width"), tf.constant(0, tf.int64))


def signatures(server: Server, stored: HowStored) -> dict[str, ConcreteFunction]:
    """By name. Only pixels where the graph cannot do what the converter did: CLAHE, and all that is
    done to volumes."""

    def traced(call: Callable, **inputs: tf.TensorSpec) -> ConcreteFunction:
        specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()]
        return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()

    dtype = storing.dtype_of(stored.storage)
    found = {
        PIXELS: traced(
            lambda pixels, window: server.of_pixels(pixels, window),
            pixels=tf.TensorSpec([None, None, None], dtype),
            window=tf.TensorSpec([None, 2], tf.float32),
        )
    }
    if not (stored.is_ct or stored.storage.clahe or stored.storage.lung_roi):
        for name, reader in READERS.items():
            found[name] = traced(
                lambda files, reader=reader: server.of_files(files, reader),
                files=tf.TensorSpec([None], tf.string),
            )
    return found


def save(found: dict[str, ConcreteFunction], folder: str) -> None:
    """A SavedModel; its default signature is that of DICOM files."""
    module = tf.Module()
    used = {id(v): v for function in found.values() for v in function.graph.variables}
    module.weights = list(used.values())
    default = found.get(DEFAULT, found[PIXELS])
    names = {tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: default}
    tf.saved_model.save(module, folder, signatures=found | names)
