"""What an append compares of an image with what the earlier version was made of.

In: a LabelledImage. Out: numbers, which its shard's sidecar keeps, and names of its patient.
"""

import json

from beam.conversion.deidentify import pseudonym
from beam.conversion.labelling import LabelledImage
from lake import ids
from lake.scan import Header, stable_hash


def record_digests(image: LabelledImage, key_file: str | None) -> tuple[int, int, int]:
    """Return (number of the image, of its label, of its group) of a record's input."""
    return image_digest(image.header), label_digest(image), stable_hash(group_name(image, key_file))


def image_digest(header: Header) -> int:
    """Return a number that differs where the file was written again or its header differs, but not
    where it was moved."""
    content = header.for_record() | {"path": "", "version": header.version}
    return stable_hash(json.dumps(content, sort_keys=True, default=vars))


def label_digest(image: LabelledImage) -> int:
    """Return a number that differs where the label does."""
    return stable_hash(json.dumps(image.label.for_record(), sort_keys=True))


def group_name(image: LabelledImage, key_file: str | None) -> str:
    """Return the name of the group that a split must not divide, hashed as records have it."""
    kind, name = image.grouped_by
    return f"{kind}/{pseudonym(kind, name, key_file)}"


def group_names(header: Header, key_file: str | None) -> list[str]:
    """Return the names under which an earlier version may know the group of an image: one of its
    images may have had no patient, but this study."""
    pairs = [(kind, getattr(header, kind)) for kind in ("patient", "study", "series")]
    pairs.append(("image", ids.without_frame(header.image_id)))
    return [f"{kind}/{pseudonym(kind, name, key_file)}" for kind, name in pairs if name]
