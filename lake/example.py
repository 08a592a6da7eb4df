"""The record: its fields, writing it without TensorFlow, reading it with TensorFlow.

One tf.train.Example an image. FIELDS is a contract with other programs: names and types do not
change within a schema version.
"""

import functools
import struct
from collections.abc import Iterable

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# name -> (type, number of values); meaning in README.md, "The record".
FIELDS = {
    "image_id": (bytes, 1),
    "image": (bytes, 1),
    "mask": (bytes, 1),
    "has_mask": (int, 1),
    "label": (int, 1),
    "lesion_px": (int, 1),
    "original_rle": (bytes, 1),
    "height": (int, 1),
    "width": (int, 1),
    "original_height": (int, 1),
    "original_width": (int, 1),
    "original_bits": (int, 1),
    "pixel_spacing_mm": (float, 2),
    "rescale": (float, 2),
    "window": (float, 2),
    "encoding": (bytes, 1),
    "patient": (bytes, 1),
    "study": (bytes, 1),
    "series": (bytes, 1),
    "view": (bytes, 1),
    "sex": (bytes, 1),
    "modality": (bytes, 1),
    "age": (int, 1),
    "slice_mm": (float, 1),
    "fold": (int, 1),
}
LISTS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}


def encode(fields: dict) -> bytes:
    """Serialised Example of a value (or sequence of values) for every one of FIELDS; the same
    fields, the same bytes."""
    if fields.keys() != FIELDS.keys():
        raise ValueError(
            f"expected the fields of lake.example.FIELDS, differs in "
            f"{fields.keys() ^ FIELDS.keys()}"
        )
    example = _example_class()()
    for name, (kind, count) in FIELDS.items():
        values = [fields[name]] if count == 1 else fields[name]
        getattr(example.features.feature[name], LISTS[kind]).value.extend(values)
    return example.SerializeToString(deterministic=True)


def frame(record: bytes) -> bytes:
    """The record as a TFRecord file holds it: length, masked CRC, record, masked CRC."""
    length = struct.pack("<Q", len(record))
    return b"".join([length, _masked_crc(length), record, _masked_crc(record)])


def parse(serialized, names: Iterable[str]) -> dict:
    """Tensors of the named fields of a serialised Example (a scalar string tensor)."""
    import tensorflow as tf

    kinds = {bytes: tf.string, float: tf.float32, int: tf.int64}
    features = {}
    for name in names:
        kind, count = FIELDS[name]
        features[name] = tf.io.FixedLenFeature([] if count == 1 else [count], kinds[kind])
    return tf.io.parse_single_example(serialized, features)


def _masked_crc(data: bytes) -> bytes:
    # TFRecord's mask: rotate right by 15 bits and add a constant
    # (tensorflow/core/lib/hash/crc32c.h).
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _example_class():
    """The message class of tensorflow/core/example/example.proto, in a pool of its own: no
    TensorFlow is needed, and none that is imported too is disturbed."""
    proto = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )
    types = descriptor_pb2.FieldDescriptorProto

    def message(parent, name: str, *fields: tuple):
        made = parent.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, start=1):
            label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            added = made.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = types.TYPE_MESSAGE, f".tensorflow.{kind}"
            else:
                added.type = kind
        return made

    message(proto.message_type, "BytesList", ("value", types.TYPE_BYTES, True))
    message(proto.message_type, "FloatList", ("value", types.TYPE_FLOAT, True))
    message(proto.message_type, "Int64List", ("value", types.TYPE_INT64, True))
    lists = (
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    )
    feature = message(proto.message_type, "Feature", *lists)
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message(proto.message_type, "Features", ("feature", "Features.FeatureEntry", True))
    entry = message(
        features.nested_type,
        "FeatureEntry",
        ("key", types.TYPE_STRING, False),
        ("value", "Feature", False),
    )
    entry.options.map_entry = True
    message(proto.message_type, "Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
