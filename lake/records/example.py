"""The record: its fields, writing and reading it without TensorFlow, reading it with TensorFlow.

One tf.train.Example an image. FIELDS is a contract with other programs: names and types do not
change within a schema version.
"""

import functools
import struct
from collections.abc import Iterable

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from lake.scan import Header, Scan

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
# The fields of a record about which nothing is known.
UNKNOWN = {
    name: {bytes: b"", int: 0, float: 0.0}[kind] if count == 1 else (0.0,) * count
    for name, (kind, count) in FIELDS.items()
} | {"label": -1, "lesion_px": -1, "age": -1, "fold": -1, "original_rle": b"-1"}
LISTS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}
LARGEST = "image"


def encode(fields: dict) -> bytes:
    """Serialised Example of a value (or sequence of values) for every one of FIELDS; the same
    fields, the same bytes."""
    return b"".join(encoded_parts(fields))


def encode_unlabelled(header: Header, scan: Scan) -> bytes:
    """Return the record that the converter would write about an image, but without its label and
    without what tells of the patient."""
    from_scan = vars(scan) | {"encoding": scan.encoding.encode()}
    from_header = {
        "image_id": header.image_id.encode(),
        "original_height": header.height,
        "original_width": header.width,
        "original_bits": header.bits,
    }
    return encode(UNKNOWN | from_scan | from_header)


def encoded_parts(fields: dict) -> list[bytes]:
    """`encode` in parts, one of them the image itself: nine tenths of a record, so a copy of it
    would cost more than all the rest."""
    if fields.keys() != FIELDS.keys():
        raise ValueError(
            f"expected the fields of lake.example.FIELDS, differs in "
            f"{fields.keys() ^ FIELDS.keys()}"
        )
    features = _class("Features")()
    for name, (kind, count) in FIELDS.items():
        if name != LARGEST:
            values = [fields[name]] if count == 1 else fields[name]
            getattr(features.feature[name], LISTS[kind]).value.extend(values)
    rest = features.SerializeToString(deterministic=True)
    return _delimited(b"\n", [rest, *_entry(LARGEST, fields[LARGEST])])


def _entry(name: str, value: bytes) -> list[bytes]:
    """The parts of `Features.feature[name].bytes_list.value = [value]`, a map entry of a key and a
    Feature (https://protobuf.dev/programming-guides/encoding)."""
    bytes_list = _delimited(b"\n", [value])
    feature = _delimited(b"\x12", _delimited(b"\n", bytes_list))
    return _delimited(b"\n", [*_delimited(b"\n", [name.encode()]), *feature])


def _delimited(tag: bytes, parts: list[bytes]) -> list[bytes]:
    """The parts as one length-delimited field."""
    return [tag, _varint(sum(map(len, parts))), *parts]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have their highest bit set."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def decode(serialized: bytes) -> dict:
    """The fields of an Example, the inverse of `encode`; raises ValueError naming every field that
    is not as FIELDS says."""
    try:
        features = _class("Example").FromString(serialized).features.feature
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from None
    fields, wrong = {}, [f"{name} is not a field" for name in sorted(features.keys() - FIELDS)]
    for name, (kind, count) in FIELDS.items():
        # Asking a proto map for a key that is not there would put it in.
        found = features[name].WhichOneof("kind") if name in features else None
        values = list(getattr(features[name], found).value) if found else []
        if found != LISTS[kind] or len(values) != count:
            came = f"{len(values)} in its {found}" if found else "nothing"
            wrong.append(f"{name}: expected {count} in its {LISTS[kind]}, found {came}")
        else:
            fields[name] = values[0] if count == 1 else tuple(values)
    if wrong:
        raise ValueError("; ".join(wrong))
    return fields


def frame(parts: list[bytes]) -> list[bytes]:
    """A record, given in parts, as a TFRecord file holds it: its length and that one's masked CRC,
    the parts, their masked CRC."""
    length = struct.pack("<Q", sum(map(len, parts)))
    return [length + masked_crc(length), *parts, masked_crc(*parts)]


def masked_crc(*parts: bytes) -> bytes:
    """The four bytes that follow a length or a record in a TFRecord file."""
    # TFRecord's mask: rotate right by 15 bits and add a constant
    # (tensorflow/core/lib/hash/crc32c.h).
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def parse(serialized, names: Iterable[str]) -> dict:
    """Tensors of the named fields of a serialised Example (a scalar string tensor)."""
    import tensorflow as tf

    kinds = {bytes: tf.string, float: tf.float32, int: tf.int64}
    features = {}
    for name in names:
        kind, count = FIELDS[name]
        features[name] = tf.io.FixedLenFeature([] if count == 1 else [count], kinds[kind])
    return tf.io.parse_single_example(serialized, features)


@functools.cache
def _class(name: str):
    """A message class of tensorflow/core/example/example.proto, in a pool of its own: no
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
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}"))
