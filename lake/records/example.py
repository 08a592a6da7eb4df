"""The record of an image: its fields <-> the bytes of one tf.train.Example.

FIELDS is a contract with other programs: names and types do not change within a schema version.
"""

import functools

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
# Those that a lake.scan.Scan has under the same names, besides its encoding.
SCAN_FIELDS = ("image", "height", "width", "pixel_spacing_mm", "rescale", "window", "slice_mm")
# The fields of a record about which nothing is known.
UNKNOWN = {
    name: {bytes: b"", int: 0, float: 0.0}[kind] if count == 1 else (0.0,) * count
    for name, (kind, count) in FIELDS.items()
} | {"label": -1, "lesion_px": -1, "age": -1, "fold": -1, "original_rle": b"-1"}
LISTS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}
# tensorflow/core/example/example.proto and feature.proto as a FileDescriptorProto. BytesExample is
# an Example whose features are bytes already: on the wire a message and its bytes look alike.
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
message_type { name: "BytesExample"
  field { name: "features" number: 1 type: TYPE_BYTES } }
"""


def encode(fields: dict) -> bytes:
    """Return the serialised Example of a value, or as many values as FIELDS says, for each of
    FIELDS; the same fields give the same bytes."""
    if fields.keys() != FIELDS.keys():
        raise ValueError(
            f"expected the fields of lake.records.example.FIELDS, differs in "
            f"{fields.keys() ^ FIELDS.keys()}"
        )
    other_features, image = _message_class("Features")(), _message_class("Features")()
    for name, (kind, count) in FIELDS.items():
        values = [fields[name]] if count == 1 else fields[name]
        features = image if name == "image" else other_features
        getattr(features.feature[name], LISTS[kind]).value.extend(values)
    # A record's map of features is sorted by name, but for the image, which stands behind all
    # others. Two messages one after the other are read as one that has the fields of both
    # (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
    content = other_features.SerializeToString(deterministic=True) + image.SerializeToString()
    return _message_class("BytesExample")(features=content).SerializeToString()


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


def decode(record: bytes) -> dict:
    """Return the fields of an Example, the inverse of `encode`; raises ValueError naming every
    field that is not as FIELDS says."""
    try:
        features = _message_class("Example").FromString(record).features.feature
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from None
    fields, mistakes = {}, [f"{name} is not a field" for name in sorted(features.keys() - FIELDS)]
    for name, (kind, count) in FIELDS.items():
        # Looking up a key that a proto map lacks would add it.
        list_name = features[name].WhichOneof("kind") if name in features else None
        values = list(getattr(features[name], list_name).value) if list_name else []
        if list_name == LISTS[kind] and len(values) == count:
            fields[name] = values[0] if count == 1 else tuple(values)
        else:
            actual = f"{len(values)} in its {list_name}" if list_name else "nothing"
            mistakes.append(f"{name}: expected {count} in its {LISTS[kind]}, found {actual}")
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
