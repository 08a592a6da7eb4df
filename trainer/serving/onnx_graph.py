"""An ensemble with its thresholds as one ONNX file, which runs without TensorFlow. It answers as
the SavedModel's signature `pixels`, but for PNGs and texts, which ONNX cannot make.

    pixels [N, H, W] uint8 or uint16, window [N, 2] float32, as a lake stores them; N at least 1

    probability [N] float32  of a lesion; NaN where the window is empty
    mask [N, H, W] bool      empty where the window is
    lesion_px [N] int64      pixels of the mask

Of networks that score F findings and draw no masks:

    findings [N, F] float32  probabilities; NaN where the window is empty
"""

import logging
import math

import numpy as np
import tensorflow as tf

from lake import InputError
from trainer.config.run import Data
from trainer.data import record
from trainer.inference import decision
from trainer.inference.decision import Sizes
from trainer.serving.graph import Server

OPSET = 15  # what tf2onnx prefers; runtimes have read it since 2021
MAX_BYTES = 2**31 - 2**24  # a protobuf ends below 2 GiB, and the graph needs some megabytes
DESCRIPTION_KEY = "export.json"  # of the file's metadata_props
# The names of the axes, which tf2onnx numbers.
AXES = {
    "pixels": ("N", "H", "W"),
    "window": ("N",),
    "probability": ("N",),
    "mask": ("N", "H", "W"),
    "lesion_px": ("N",),
    "findings": ("N",),
}


def check_size(num_parameters: int) -> None:
    """Raise InputError for networks whose weights do not go into one ONNX file."""
    if 4 * num_parameters > MAX_BYTES:
        raise InputError(
            f"--format onnx: {num_parameters:,} parameters are {4 * num_parameters / 1e9:.1f} GB, "
            f"and an ONNX file has at most {MAX_BYTES / 1e9:.1f} GB; export fewer members, or "
            f"leave --format out, as a SavedModel has no such limit"
        )


def trace(server: Server) -> tf.types.experimental.PolymorphicFunction:
    """Return the function of `pixels` and `window` that `convert` takes."""
    pixels = tf.TensorSpec([None] * 3, server.dtype(), "pixels")
    window = tf.TensorSpec([None, 2], tf.float32, "window")
    return tf.function(
        lambda pixels, window: _outputs(server, pixels, window), [pixels, window], autograph=False
    )


def _outputs(server: Server, pixels, window) -> dict:
    """Return the outputs of images of one size. All go through each step together, as tf.map_fn,
    which the SavedModel has, would become a loop in ONNX."""
    height, width = tf.unstack(tf.shape(pixels)[1:])
    images = {
        name: _fit(pixels, height, width, settings)
        for name, settings in server.image_settings().items()
    }
    is_readable = window[:, 0] < window[:, 1]
    outputs = server.ensemble.outputs(images | {"window": window})
    probability = tf.sigmoid(outputs["scores"])
    if server.ensemble.findings:
        return {"findings": tf.where(is_readable[:, None], probability, math.nan)}
    sizes = Sizes(height, width, height, width)
    settings = server.ensemble.settings
    source_p = decision.resize_to_source(outputs["probabilities"], sizes, settings)
    masks = decision.masks_of(source_p, server.decision, outputs["lesion"])
    masks &= is_readable[:, None, None]
    return {
        "probability": tf.where(is_readable, probability, math.nan),
        "mask": masks,
        "lesion_px": tf.math.count_nonzero(masks, axis=[1, 2]),
    }


def _fit(pixels, height, width, settings: Data):
    """Return images [N, S, S, 1] of a network's side, whole numbers as float32, of pixels
    [N, H, W]; for each, as record.fit_image makes it."""
    side = settings.side
    top, left, inner_height, inner_width = record.box_within(height, width, side, settings.fit)
    levels = tf.matmul(_resize_weights(height, inner_height), tf.cast(pixels, tf.float32))
    levels = tf.matmul(levels, _resize_weights(width, inner_width), transpose_b=True)
    margins = [[top, side - top - inner_height], [left, side - left - inner_width]]
    square = tf.pad(tf.round(levels), [[0, 0], *margins])[..., None]
    return tf.ensure_shape(square, [None, side, side, 1])


def _resize_weights(source, target):
    """Return the weights [target, source] of the pixels of one axis when it is resized with
    antialias: those of TensorFlow's ScaleAndTranslate, of which ONNX's Resize differs at the edges
    of an image, by up to 14 of 255 grey levels."""
    source_per_target = 1 / (tf.cast(target, tf.float32) / tf.cast(source, tf.float32))
    centres = (tf.cast(tf.range(target), tf.float32) + 0.5) * source_per_target
    distances = tf.abs(tf.cast(tf.range(source), tf.float32) + 0.5 - centres[:, None])
    triangles = tf.nn.relu(1 - distances / tf.maximum(source_per_target, 1))
    return triangles / tf.reduce_sum(triangles, axis=1, keepdims=True)


def convert(function: tf.types.experimental.PolymorphicFunction, description: str) -> bytes:
    """Return the ONNX file of a traced function, with the text of export.json inside; raise
    InputError where a network has an operation that ONNX does not have."""
    import onnx
    import tf2onnx  # it imports TensorFlow's tools, which takes a while

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # the check below says what is wrong
    try:
        model, _ = tf2onnx.convert.from_function(
            function,
            function.input_signature,
            opset=OPSET,
            custom_op_handlers={"ScaleAndTranslate": (_antialiased_resize, [])},
        )
        onnx.checker.check_model(model)
    except (ValueError, onnx.checker.ValidationError) as error:
        cause = str(error).splitlines()[0]
        raise InputError(
            f"--format onnx: a network has what tf2onnx cannot say in ONNX {OPSET} ({cause}); "
            f"leave --format out, as a SavedModel takes all networks"
        ) from None
    onnx.helper.set_model_props(model, {DESCRIPTION_KEY: description})
    for tensor in (*model.graph.input, *model.graph.output):
        for axis, name in zip(tensor.type.tensor_type.shape.dim, AXES[tensor.name], strict=False):
            axis.dim_param = name
    return model.SerializeToString()


def _antialiased_resize(graph, node, name: str, arguments: list) -> None:
    """Replace TensorFlow's antialiased resize, which scaled views have, by products with constant
    weights; a handler for tf2onnx, which has none."""
    from tf2onnx import utils

    def weights(source: int, target: int) -> np.ndarray:
        # tf2onnx calls handlers inside a graph, where tensors have no values.
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            return session.run(_resize_weights(source, target))

    def constant(values: np.ndarray) -> str:
        return graph.make_const(utils.make_name("weights"), values).output[0]

    _, height, width, _ = graph.get_shape(node.input[0])
    target_height, target_width = node.inputs[1].get_tensor_value()
    images, outputs = node.input[0], node.output
    facts = {"name": node.name, "shapes": node.output_shapes, "dtypes": node.output_dtypes}
    graph.remove_node(node.name)
    [planes] = graph.make_node("Transpose", [images], {"perm": [0, 3, 1, 2]}).output
    [rows] = graph.make_node("MatMul", [constant(weights(height, target_height)), planes]).output
    columns = constant(weights(width, target_width).T)
    [resized] = graph.make_node("MatMul", [rows, columns]).output
    graph.make_node("Transpose", [resized], {"perm": [0, 2, 3, 1]}, outputs=outputs, **facts)
