"""An ensemble with its thresholds as one graph: files, or pixels as a lake stores them, go in; what
predict writes about them comes out, computed by the same steps.

    probability [N] float32  of a lesion, as in predictions.csv
    mask_bytes [N] string    PNG of 0 and 255 at the source's size
    rle [N] string           run lengths as in submission.csv, `-1` for an empty mask
    lesion_px [N] int64      pixels of the mask
    height, width [N] int64  of the source
    error [N] string         "", or why there is no answer; the others are then NaN, "" and 0

Of networks that score F findings and draw no masks:

    findings [N, F] float32  probabilities, as in predictions.csv; NaN where there is no answer
    names [N, F] string      of the findings, the same for every image
    error [N] string         as above
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
from lake.sources.reader import ReaderSettings
from trainer.config.run import Data
from trainer.data import record
from trainer.inference import decision
from trainer.inference.decision import Decision, Sizes
from trainer.inference.ensemble import CLASSIFIER_IMAGE, Ensemble
from trainer.inference.images import item_for
from trainer.serving import rle
from trainer.serving.decode import dicom as decode_dicom
from trainer.serving.decode import images as decode_images
from trainer.serving.decode import tfio
from trainer.serving.decode.stored_image import StoredImage

DEFAULT = SIGNATURES["dicom"]
DAMAGED = "undecodable: damaged or cut off"
NO_WINDOW = "window: expected low < high"


class Server(NamedTuple):
    """What a graph predicts with: networks, thresholds, and how the lake stores pixels."""

    ensemble: Ensemble
    decision: Decision
    storage: Storage

    def inputs_of_files(self, files, reader: Callable) -> dict:
        """Return the networks' inputs, of files [N] string."""

        def inputs_of_file(content):
            return attempt(
                lambda: self._inputs_of_image(reader(content, self.storage)), self._black(DAMAGED)
            )

        return tf.map_fn(inputs_of_file, files, fn_output_signature=self._item_spec())

    def inputs_of_pixels(self, levels, window) -> dict:
        """Return the networks' inputs, of pixels [N, H, W] and windows [N, 2] as a lake stores
        them."""
        height, width = tf.unstack(tf.shape(levels)[1:])

        def inputs_of_image(pixels_and_window):
            """Return the inputs of pixels [H, W], which are of the source's size, and their window
            [2]; its error says where the window is empty."""
            pixels, window = pixels_and_window
            low, high = tf.unstack(window)
            image = StoredImage(
                jpeg=tf.constant(""),
                pixels=pixels[..., None],
                height=height,
                width=width,
                original_height=height,
                original_width=width,
                window=window,
                error=tf.where(low < high, "", NO_WINDOW),
            )
            return self._inputs_of_image(image)

        return tf.map_fn(inputs_of_image, (levels, window), fn_output_signature=self._item_spec())

    def inputs_of_records(self, records) -> dict:
        """Return the networks' inputs, of serialised records [N] string, as predict makes them."""

        def inputs_of_record(record):
            """Return the inputs of one record; an op fails where it is damaged."""
            fields = item_for(self.ensemble, record, self.dtype().name, Sizes._fields)
            sizes = Sizes(*(tf.cast(fields[name], tf.int32) for name in Sizes._fields))
            tensors = {name: fields[name] for name in ("window", *self.image_settings())}
            return tensors | {"sizes": sizes, "error": tf.constant("")}

        def inputs_or_error(record):
            return attempt(lambda: inputs_of_record(record), self._black(DAMAGED))

        return tf.map_fn(inputs_or_error, records, fn_output_signature=self._item_spec())

    def image_settings(self) -> dict[str, Data]:
        """Return the side and fit of each image in a batch, by its name."""
        sections = {"image": self.ensemble.settings}
        if (classifier_settings := self.ensemble.classifier_settings) is not None:
            sections[CLASSIFIER_IMAGE] = classifier_settings
        return sections

    def _item_spec(self) -> dict:
        """Return the shapes and types of one image's inputs, of which tf.map_fn makes a batch."""
        return tf.nest.map_structure(tf.TensorSpec.from_tensor, self._black(""))

    def _inputs_of_image(self, image: StoredImage) -> dict:
        """Return one image as the networks get it, with its window, sizes and error."""

        def readable_inputs() -> dict:
            images = {
                name: self._fit(image, section) for name, section in self.image_settings().items()
            }
            sizes = Sizes(*(getattr(image, name) for name in Sizes._fields))
            return images | {"window": image.window, "sizes": sizes, "error": image.error}

        return tf.cond(image.error == "", readable_inputs, lambda: self._black(image.error))

    def _black(self, error) -> dict:
        """Return the inputs that stand for an image which cannot be read: black, with the error."""
        images = {
            name: tf.zeros([section.side, section.side, 1], self.dtype())
            for name, section in self.image_settings().items()
        }
        return images | {
            "window": tf.constant([0.0, 1.0]),
            "sizes": Sizes(*tf.unstack(tf.ones(len(Sizes._fields), tf.int32))),
            "error": tf.convert_to_tensor(error),
        }

    def dtype(self) -> tf.DType:
        """Return the type of the stored pixels."""
        return tf.uint8 if self.storage.bits == 8 else tf.uint16

    def _fit(self, image: StoredImage, data: Data):
        """Return an image [S, S, 1] of a network's side, as training reads it from a record."""
        size = (image.height, image.width)
        box = record.box_within(*size, data.side, data.fit)
        return record.fit_image(
            image.jpeg != "", image.jpeg, lambda: image.pixels, size, self.dtype(), data.side, box
        )

    def predict(self, inputs: dict) -> dict:
        """Return a signature's outputs for a batch of the networks' inputs."""
        is_readable = inputs["error"] == ""
        outputs = self._outputs({name: inputs[name] for name in ("window", *self.image_settings())})
        probability = tf.cast(tf.sigmoid(tf.cast(outputs["scores"], tf.float64)), tf.float32)
        if self.ensemble.findings:
            names = tf.constant([self.ensemble.findings])
            return {
                "findings": tf.where(is_readable[:, None], probability, math.nan),
                "names": tf.tile(names, [tf.size(is_readable), 1]),
                "error": inputs["error"],
            }
        # tf.map_fn needs a tensor; without an empty_head the decision ignores it.
        lesion = outputs["scores"] if outputs["lesion"] is None else outputs["lesion"]
        masks = tf.map_fn(
            lambda image: tf.cond(image[-1], lambda: self._mask_outputs(*image[:-1]), _no_mask),
            (outputs["probabilities"], lesion, inputs["sizes"], is_readable),
            fn_output_signature={name: tensor.dtype for name, tensor in _no_mask().items()},
        )
        return masks | {
            "probability": tf.where(is_readable, probability, math.nan),
            "error": inputs["error"],
        }

    def _outputs(self, images: dict) -> dict:
        """Return the ensemble's outputs for a batch of images and their windows.

        A batch of no image goes through the networks as one black image, whose outputs are cut off:
        on CPUs on which TensorFlow uses oneDNN, convolutions with their activation fail on none.
        """
        count = tf.shape(images["window"])[0]

        def pad(tensor):
            size = [tf.maximum(count, 1) - count, *tensor.shape[1:]]
            return tf.concat([tensor, tf.zeros(size, tensor.dtype)], axis=0)

        outputs = self.ensemble.outputs(tf.nest.map_structure(pad, images))
        return {name: x if x is None else x[:count] for name, x in outputs.items()}

    def _mask_outputs(self, probabilities, lesion, sizes: Sizes) -> dict:
        """Decide the mask of one image's probabilities [S, S, 1] and return its outputs."""
        size = (sizes.original_height, sizes.original_width)
        mask = tf.cond(
            decision.is_plainly_empty(tf.reduce_max(probabilities), self.decision, lesion),
            lambda: tf.zeros(size, tf.bool),
            lambda: decision.source_mask(
                probabilities, sizes, self.ensemble.settings, self.decision, lesion
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


def _no_mask() -> dict:
    """Return the outputs in place of _mask_outputs for an image that cannot be read."""
    texts = dict.fromkeys(("mask_bytes", "rle"), tf.constant(""))
    return texts | dict.fromkeys(("lesion_px", "height", "width"), tf.constant(0, tf.int64))


def attempt(make: Callable, otherwise):
    """Return the tensors of `make()`, or `otherwise`, of the same structure, where an op fails.

    A graph has no `try`: an op that fails ends the whole call, and with it the other files of the
    batch. But a dataset may skip elements with errors. So `make` runs as a dataset of one element,
    `otherwise` follows it, and the first element that is left is the result.
    """
    call = tf.autograph.experimental.do_not_convert(lambda _: make())
    results = tf.data.Dataset.from_tensors(0).map(call).ignore_errors()
    results = results.concatenate(tf.data.Dataset.from_tensors(otherwise))
    return results.take(1).get_single_element()


def readers(decoder: str, settings: ReaderSettings) -> dict[str, Callable]:
    """Return the function that reads the files of each signature; `decoder` as in --decoder."""
    dicom = {GRAPH: decode_dicom.stored_image, TFIO: tfio.stored_image}[decoder]
    lakes = () if settings.any_modality else settings.exams
    return {
        DEFAULT: functools.partial(dicom, lakes=lakes),
        SIGNATURES["images"]: decode_images.stored_image,
    }


def signatures(
    server: Server, settings: ReaderSettings, decoder: str
) -> dict[str, Callable[[], ConcreteFunction]]:
    """Return {name: a call that traces the signature of this name}.

    There are only PIXELS and RECORDS where the graph cannot repeat what the converter did: CLAHE,
    and everything about volumes."""
    predict = tf.function(server.predict, autograph=False)  # traced once, for all signatures

    def trace(inputs_of: Callable, **arguments: tf.TensorSpec) -> ConcreteFunction:
        specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in arguments.items()]
        call = tf.function(lambda *tensors: predict(inputs_of(*tensors)), specs, autograph=False)
        return call.get_concrete_function()

    pixels, window = tf.TensorSpec([None] * 3, server.dtype()), tf.TensorSpec([None, 2])
    strings = tf.TensorSpec([None], tf.string)
    traces = {
        PIXELS: functools.partial(trace, server.inputs_of_pixels, pixels=pixels, window=window),
        RECORDS: functools.partial(trace, server.inputs_of_records, records=strings),
    }
    if not (settings.is_ct or settings.storage.clahe or settings.storage.lung_roi):
        for name, reader in readers(decoder, settings).items():
            inputs_of = functools.partial(server.inputs_of_files, reader=reader)
            traces[name] = functools.partial(trace, inputs_of, files=strings)
    return traces


def save(functions: dict[str, ConcreteFunction], folder: str) -> None:
    """Write a SavedModel; its default signature is that of DICOM files, else that of pixels."""
    module = tf.Module()
    variables = {id(v): v for function in functions.values() for v in function.graph.variables}
    module.weights = list(variables.values())
    default = functions.get(DEFAULT, functions[PIXELS])
    names = {tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: default}
    tf.saved_model.save(module, folder, signatures=functions | names)
