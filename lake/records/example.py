"""The record of an image: its fields <-> the bytes of one tf.train.Example.

FIELDS is a contract with other programs: names and types do not change within a schema version.
Records of a multi-label lake, schema version 2, have the field FINDINGS besides.
"""

import functools
import struct

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from lake.scan import Header, Scan

# name -> (type, number of values); meaning in docs/lake.md, "The record".
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
FINDINGS = "findings"  # of a multi-label lake: 1, 0 or -1 for each of them, in the manifest's order
# Those that a lake.scan.Scan has under the same names, besides its encoding.
SCAN_FIELDS = ("image", "height", "width", "pixel_spacing_mm", "rescale", "window", "slice_mm")
# The fields of a record about which nothing is known.
UNKNOWN = {
    name: {bytes: b"", int: 0, float: 0.0}[value_type] if count == 1 else (0.0,) * count
    for name, (value_type, count) in FIELDS.items()
} | {"label": -1, "lesion_px": -1, "age": -1, "fold": -1, "original_rle": b"-1"}
LISTS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}
# tensorflow/core/example/example.proto and feature.proto as a FileDescriptorProto.
PROTO = """
name: "example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: "BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: "FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: "Int64List" oneof_index: 0 } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: "Features.FeatureEntry" }
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type_name: "Feature" } } }
message_type { name: "Example"
  field { name: "features" number: 1 type_name: "Features" } }
"""
# The bytes in front of the length of a message that is field 1 of another, and of the Feature of
# the image, field 2 of an entry of the map, whose field 1 is its name.
FIELD_1, IMAGE_FIELD = b"\n", b"\n\x05image\x12"
CACHED_ENTRIES = 1000  # sizes, windows, ages ...: most fields of a record are as in many others
LONG = 100  # bytes; no other record has this one's


def fields_of(num_findings: int = 0) -> dict[str, tuple[type, int]]:
    """Return name -> (type, number of values) of a record's fields, in a lake of so many
    findings."""
    return FIELDS | ({FINDINGS: (int, num_findings)} if num_findings else {})


def is_list(name: str, count: int) -> bool:
    """Return whether a field of so many values is a list of them: the findings are, be it one."""
    return count > 1 or name == FINDINGS


def encode(fields: dict) -> bytes:
    """Return the serialised Example of a value, or as many values as FIELDS says, for each of
    FIELDS, and of the findings, where there are any; the same fields give the same bytes."""
    return b"".join(encode_parts(fields))


def encode_parts(fields: dict) -> list[bytes]:
    """Return the bytes of `encode` in parts, the image by itself: it is nine tenths of a record,
    and a copy of it takes as long as all the rest. Raises ValueError for other fields than
    `fields_of` has."""
    expected_fields = fields_of(len(fields.get(FINDINGS, ())))
    if fields.keys() != expected_fields.keys():
        raise ValueError(
            f"expected the fields of lake.records.example.fields_of, differs in "
            f"{fields.keys() ^ expected_fields.keys()}"
        )
    # A record's map of features is sorted by name, but for the image, which stands behind all
    # others. Messages one after the other are read as one that has the fields of all
    # (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
    entries = [_entry(name, fields[name]) for name in sorted(fields) if name != "image"]
    image = fields["image"]
    rest = b"".join([*entries, _head_of_image(len(image))])
    return [FIELD_1 + _varint(len(rest) + len(image)) + rest, image]


def _entry(name: str, value: bytes | float | tuple) -> bytes:
    """Return a field as a Features message that has it alone."""
    if name == FINDINGS:
        return _cached_entry(name, tuple(value))
    value_type, count = FIELDS[name]
    if value_type is bytes and len(value) > LONG:
        return _encode_entry(name, value)
    if value_type is float:  # by their bytes: 0.0 equals -0.0, and NaN is not equal to itself
        value = struct.pack(f"={count}d", *(value if count > 1 else [value]))
    return _cached_entry(name, value)


@functools.lru_cache(CACHED_ENTRIES, typed=True)
def _cached_entry(name: str, value: bytes | int | tuple[int, ...]) -> bytes:
    """Return a field as `_entry` does; a float's value comes as the bytes of its doubles."""
    value_type, count = fields_of(1)[name]
    return _encode_entry(name, struct.unpack(f"={count}d", value) if value_type is float else value)


def _encode_entry(name: str, value: bytes | int | tuple) -> bytes:
    value_type, _ = fields_of(1)[name]
    features = _message_class("Features")()
    values = value if isinstance(value, tuple) else [value]
    getattr(features.feature[name], LISTS[value_type]).value.extend(values)
    return features.SerializeToString()


def _head_of_image(size: int) -> bytes:
    """Return the bytes in front of the `size` bytes of an image in a Features message that has it
    alone. protobuf would copy the image four times."""
    head = b""
    for field in (FIELD_1, FIELD_1, IMAGE_FIELD, FIELD_1):  # bytes, BytesList, Feature, entry
        head = field + _varint(len(head) + size) + head
    return head


def _varint(number: int) -> bytes:
    """Return a length as protobuf writes it: seven bits per byte, the lowest first, and in all
    bytes but the last the highest bit set."""
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def encode_unlabelled(header: Header, scan: Scan) -> bytes:
    """Return the record that the converter would write for an image, without its label and what
    identifies the patient."""
    from_scan = {name: getattr(scan, name) for name in SCAN_FIELDS}
    from_scan["encoding"] = scan.encoding.encode()
    from_header = {
        "image_id": header.image_id.encode(),
        "original_height": header.height,
        "original_width": header.width,
        "original_bits": header.bits,
    }
    return encode(UNKNOWN | from_scan | from_header)


def decode(record: bytes, num_findings: int = 0) -> dict:
    """Return the fields of an Example, the inverse of `encode`, in a lake of so many findings;
    raises ValueError naming every field that is not as `fields_of` says."""
    expected_fields = fields_of(num_findings)
    try:
        features = _message_class("Example").FromString(record).features.feature
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from None
    strangers = sorted(features.keys() - expected_fields)
    fields, mistakes = {}, [f"{name} is not a field" for name in strangers]
    for name, (value_type, count) in expected_fields.items():
        # Looking up a key that a proto map lacks would add it.
        list_name = features[name].WhichOneof("kind") if name in features else None
        values = list(getattr(features[name], list_name).value) if list_name else []
        if list_name == LISTS[value_type] and len(values) == count:
            fields[name] = tuple(values) if is_list(name, count) else values[0]
        else:
            actual = f"{len(values)} in its {list_name}" if list_name else "nothing"
            mistakes.append(f"{name}: expected {count} in its {LISTS[value_type]}, found {actual}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return fields


@functools.cache
def _message_class(name: str):
    """Return the class of a message of PROTO, from a pool of its own: it needs no TensorFlow, and
    does not disturb one that is imported too."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}"))
