"""The bytes of a record, against protobuf's own."""

import math

import pytest

from lake.records import example, tfrecord


def fields(**changes):
    return example.UNKNOWN | {"image": b"x", "window": (0.0, 1.0)} | changes


def as_one_message(values):
    """The record as protobuf writes it: all features but the image in one message, then the
    image's."""
    messages = [example._message_class("Example")() for _ in range(2)]
    for name, value in values.items():
        kind = example.FIELDS[name][0] if name in example.FIELDS else int
        feature = messages[name == "image"].features.feature[name]
        value = value if isinstance(value, tuple) else [value]
        getattr(feature, example.LISTS[kind]).value.extend(value)
    parts = [message.features.SerializeToString(deterministic=True) for message in messages]
    merged = example._message_class("Example").FromString(
        b"".join(message.SerializeToString(deterministic=True) for message in messages)
    )
    return b"".join(parts), merged


@pytest.mark.parametrize("size", [0, 1, 100, 117, 118, 127, 128, 16_383, 16_384, 3_000_000])
def test_a_record_is_what_protobuf_writes(size):
    values = fields(image=bytes(size), mask=b"m" * (size % 300), label=1, slice_mm=math.nan)
    content, merged = as_one_message(values)
    record = example.encode(values)
    assert record.endswith(content) and len(record) - len(content) <= 6  # a tag and a length
    assert example._message_class("Example").FromString(record) == merged
    assert example.decode(record)["image"] == values["image"]


@pytest.mark.parametrize("findings", [(1,), (0,), (-1, 0, 1), (0,) * 14, (1,) * 200])
def test_a_multi_label_record_is_what_protobuf_writes(findings):
    values = fields(label=max(findings), findings=findings)
    content, merged = as_one_message(values)
    record = example.encode(values)
    assert record.endswith(content)
    assert example._message_class("Example").FromString(record) == merged
    assert example.decode(record, len(findings)) == values | {"has_mask": 0}
    # Neither a reader of another lake's findings nor one of a lake without them takes it.
    for count in (0, len(findings) + 1):
        with pytest.raises(ValueError, match="findings"):
            example.decode(record, count)
    with pytest.raises(ValueError, match="findings: expected 2 .* found nothing"):
        example.decode(example.encode(fields()), 2)
    with pytest.raises(ValueError, match="differs in {'findings'}"):
        example.encode(fields(findings=()))


def test_values_that_are_equal_have_bytes_of_their_own():
    for zero in (0.0, -0.0, 0.0):
        record = example.encode(fields(rescale=(1.0, zero)))
        assert math.copysign(1, example.decode(record)["rescale"][1]) == math.copysign(1, zero)
    example.encode(fields(label=1))
    with pytest.raises(TypeError):
        example.encode(fields(label=1.5))
    record = example.encode(fields(slice_mm=math.nan))
    assert math.isnan(example.decode(record)["slice_mm"])


def test_parts_are_the_record():
    values = fields(image=bytes(1000))
    parts, record = example.encode_parts(values), example.encode(values)
    assert b"".join(parts) == record
    assert b"".join(tfrecord.frame(*parts)) == b"".join(tfrecord.frame(record))
