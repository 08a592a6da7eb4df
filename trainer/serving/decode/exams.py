"""Whether networks learnt from such images as a DICOM file shows, inside a TensorFlow graph: its
elements -> an error. Of texts about the part of the body only those are known that are one word of
the vocabulary; predict finds words in longer ones, and reads the codes of regions, too."""

from collections.abc import Sequence

import tensorflow as tf
from pydicom.uid import UID_dictionary

from lake import exam
from lake.exam import Exam
from lake.sources.dicom import body_parts, examination, grey
from trainer.serving.decode.elements import Walk, first_error

TAGS = (examination.BODY_PART, examination.IMAGE_TYPE)  # beside those that reading takes
WORDS = frozenset((*examination.TERMS, *examination.MODALITY_SYNONYMS))


def refusal(walk: Walk, lakes: Sequence[dict]) -> tf.Tensor:
    """Return the error of a file that is refused, [] string, "" where it is not. `lakes` are the
    counts of the lakes that the networks learnt from, as lake.exam.count has them."""

    def is_refused(**fields) -> bool:
        return exam.difference(Exam(**fields), lakes) is not None

    def is_one_of(text: tf.Tensor, words) -> tf.Tensor:
        return tf.reduce_any(text == sorted(words)) if words else tf.constant(False)

    first_value = tf.strings.regex_replace(walk.text(examination.MODALITY), r"(?s)\s*\\.*", "")
    modality, sop_class = tf.strings.upper(first_value), walk.text(grey.SOP_CLASS)
    modality_of, modality_of_class = examination.modality_of, examination.modality_of_class
    refused_words = {word for word in WORDS if is_refused(modality=modality_of(word))}
    refused_classes = {uid for uid in UID_dictionary if is_refused(modality=modality_of_class(uid))}
    is_other = is_one_of(modality, refused_words)
    is_other |= (modality == "") & is_one_of(sop_class, refused_classes)
    if is_refused(modality=exam.OTHER):
        is_other |= (modality != "") & ~is_one_of(modality, WORDS)
    part = tf.strings.upper(walk.text(examination.BODY_PART))
    part = tf.strings.regex_replace(part, "[^A-Z]", "")
    table = body_parts.PARTS_OF_WORD
    refused_parts = {word for word, parts in table.items() if is_refused(body_parts=parts)}
    types = tf.strings.upper(walk.text(examination.IMAGE_TYPE))
    is_capture = tf.strings.regex_full_match(types, r"(?s)(.*\\)?\s*SECONDARY\s*(\\.*)?")
    is_capture &= is_one_of(sop_class, examination.CAPTURE_CLASSES)
    is_capture &= is_refused(is_capture=True)
    advice = f"; leave it out, or export with {exam.OPTION}"
    return first_error(
        (
            is_other,
            f"{exam.OTHER_MODALITY}: the networks learnt from {_words(lakes, exam.MODALITIES)}"
            f"{advice}",
        ),
        (
            is_capture,
            f"{exam.SECONDARY_CAPTURE}: as of a screen; the networks learnt from none{advice}",
        ),
        (
            is_one_of(part, refused_parts),
            f"{exam.OTHER_BODY_PART}: the networks learnt from {_words(lakes, exam.BODY_PARTS)}"
            f"{advice}",
        ),
    )


def _words(lakes: Sequence[dict], name: str) -> str:
    return " and ".join(exam.in_words(lake[name]) for lake in lakes)
