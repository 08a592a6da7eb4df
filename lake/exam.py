"""What an image shows, as far as the header of its file says it: its modality and the parts of the
body, and whether the lake that networks learnt from had such images.

In: words of closed vocabularies (lake/sources/dicom/examination.py), or OTHER for any other word.
Out: counts for a manifest, {"modalities": {word: images}, "body_parts": {word: images},
"secondary_captures": images}; why a file is refused; remarks on files that are not refused.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lake import Reject

OTHER, ABSENT = "other", "absent"
WORDS = MODALITIES, BODY_PARTS = "modalities", "body_parts"
CAPTURES = "secondary_captures"
# Reasons of a Reject.
REASONS = OTHER_MODALITY, SECONDARY_CAPTURE, OTHER_BODY_PART = (
    *("other-modality", "secondary-capture", "other-body-part"),
)
OPTION = "--any_modality"
HELP = "take files of modalities and body parts that the lake did not have, too"
NOT_COMPARED = "modality not compared", "body part not compared"
# Projection radiographs: which of these a device writes says how it was read out (a plate, a
# detector, a film), not what the picture looks like, and archives hold all of them side by side.
RADIOGRAPHS = frozenset(("CR", "DX", "RG"))
UPPER_LIMB = (
    *("SHOULDER", "CLAVICLE", "SCAPULA", "AXILLA", "ARM", "HUMERUS", "ELBOW", "FOREARM", "RADIUS"),
    *("ULNA", "WRIST", "HAND", "FINGER", "THUMB"),
)
LOWER_LIMB = (
    *("HIP", "THIGH", "FEMUR", "KNEE", "PATELLA", "LEG", "TIBIA", "FIBULA", "CALF", "ANKLE"),
    *("FOOT", "CALCANEUS", "TOE"),
)
WHOLE_BODY = "WHOLEBODY"
# {part of the body: those that lie in it}
INNER_PARTS = {
    "HEAD": (
        *("SKULL", "BRAIN", "CEREBELLUM", "FACE", "ORBIT", "EYE", "EAR", "IAC", "NOSE", "SINUS"),
        *("JAW", "MAXILLA", "ZYGOMA", "MOUTH", "TONGUE", "TMJ", "SCALP", "CHEEK", "PAROTID"),
    ),
    "NECK": ("LARYNX", "PHARYNX", "THYROID", "CAROTID", "TRACHEA"),
    "CHEST": (
        *("HEART", "RIB", "STERNUM", "MEDIASTINUM", "BRONCHUS", "TRACHEA", "THYMUS", "ESOPHAGUS"),
        *("AORTA", "CORONARYARTERY"),
    ),
    "ABDOMEN": (
        *("LIVER", "SPLEEN", "KIDNEY", "ADRENAL", "PANCREAS", "STOMACH", "GALLBLADDER", "COLON"),
        *("DUODENUM", "JEJUNUM", "ILEUM", "URETER", "AORTA"),
    ),
    "PELVIS": (
        *("BLADDER", "UTERUS", "CERVIX", "OVARY", "VAGINA", "PROSTATE", "RECTUM", "ANUS", "ILIUM"),
        *("SSPINE", "COCCYX"),
    ),
    "SPINE": ("CSPINE", "TSPINE", "LSPINE", "SSPINE", "COCCYX"),
    "EXTREMITY": ("UPPERLIMB", "LOWERLIMB", *UPPER_LIMB, *LOWER_LIMB),
    "UPPERLIMB": UPPER_LIMB,
    "LOWERLIMB": LOWER_LIMB,
    "SHOULDER": ("CLAVICLE", "SCAPULA"),
    "ARM": ("HUMERUS",),
    "FOREARM": ("RADIUS", "ULNA"),
    "HAND": ("FINGER", "THUMB"),
    "THIGH": ("FEMUR",),
    "KNEE": ("PATELLA",),
    "LEG": ("TIBIA", "FIBULA", "CALF"),
    "FOOT": ("CALCANEUS", "TOE"),
}


class Exam(NamedTuple):
    """What one image shows, as its header says it."""

    modality: str = ""  # "" where there is none
    body_parts: tuple[str, ...] = ()
    is_capture: bool = False  # of a screen or the like, instead of the modality's own image


# --- counts ---


def count(exams: Mapping[Exam, int]) -> dict:
    """Return the counts of so many images of each Exam. An image of two parts of the body counts in
    both."""
    modalities, body_parts, num_captures = Counter(), Counter(), 0
    for exam, number in exams.items():
        modalities[exam.modality or ABSENT] += number
        body_parts.update(dict.fromkeys(exam.body_parts or [ABSENT], number))
        num_captures += number * exam.is_capture
    return _counts(modalities, body_parts, num_captures)


def total(counts: Iterable[dict | None]) -> dict | None:
    """Return the sum of counts; None where one of them is not known, or there is none."""
    counts = list(counts)
    if not counts or None in counts:
        return None
    sums = [sum((Counter(part[name]) for part in counts), Counter()) for name in WORDS]
    return _counts(*sums, sum(part[CAPTURES] for part in counts))


def _counts(modalities: Counter, body_parts: Counter, num_captures: int) -> dict:
    words = {MODALITIES: modalities, BODY_PARTS: body_parts}
    words = {name: dict(sorted(numbers.items())) for name, numbers in words.items()}
    return words | {CAPTURES: num_captures}


def in_words(words: Mapping[str, int]) -> str:
    """Return counts of words such as `CR 30, DX 4`, the most frequent first."""
    pairs = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{word} {number:,}" for word, number in pairs)


# --- comparison ---


def difference(exam: Exam, lakes: Sequence[dict]) -> Reject | None:
    """Return the Reject of an image that differs from all that the lakes with these counts had;
    None where it does not, as far as it and they say what they show."""
    differences = (
        check(exam, lake)
        for lake in lakes
        for check in (_other_modality, _secondary_capture, _other_body_part)
    )
    return next(filter(None, differences), None)


def standings(exams: Iterable[Exam], lakes: Sequence[dict]) -> dict[str, int]:
    """Return numbers of images: under NOT_COMPARED those whose modality or part of the body could
    be compared with no lake, under REASONS those that differ from all lakes."""
    result = Counter()
    for exam, number in Counter(exams).items():
        for name, is_comparable in zip(NOT_COMPARED, (has_modality, has_body_parts), strict=True):
            if not any(is_comparable(exam, lake) for lake in lakes):
                result[name] += number
        if different := difference(exam, lakes):
            result[different.reason] += number
    return dict(result)


def sentences(standing: dict[str, int], rejects: dict[str, int], is_known: bool) -> list[str]:
    """Return the sentences that a user reads at the end of a prediction, from `standings` of the
    images that were read, the number of rejects by reason, and whether the lakes' counts are
    known."""
    result = []
    if refused := {reason: rejects[reason] for reason in REASONS if reason in rejects}:
        result.append(
            f"refused, as the networks learnt from no such images: {in_words(refused)}; leave them "
            f"out, or give {OPTION}"
        )
    if others := {reason: standing[reason] for reason in REASONS if reason in standing}:
        result.append(
            f"{OPTION}: the networks learnt from no such images as {sum(others.values()):,} of "
            f"these ({in_words(others)})"
        )
    if names := [name for name in NOT_COMPARED if name in standing]:
        parts = [f"{name.split(' not ')[0]} of {standing[name]:,} images" for name in names]
        why = "their files or the lake name none that DICOM has"
        why = why if is_known else "the lake was written before these were counted"
        images = ", ".join(parts)
        result.append(f"not compared with what the networks learnt from: {images}; {why}")
    return result


def lake_difference(lake: dict | None, learnt: dict | None) -> str:
    """Return in words what images of a lake show, by its counts, and no image did that networks
    learnt from, by the counts `learnt`; "" where there is nothing, or counts are not known."""
    if lake is None or learnt is None:
        return ""
    parts = []
    for what, kind, exams, _, check in _comparisons(lake):
        if others := {word: lake[kind][word] for word, e in exams.items() if check(e, learnt)}:
            parts.append(f"{what} {in_words(others)} (they: {in_words(learnt[kind])})")
    if lake[CAPTURES] and _secondary_capture(Exam(is_capture=True), learnt):
        parts.append(f"{lake[CAPTURES]:,} secondary captures, as of a screen (they: none)")
    return "; ".join(parts)


def lake_not_compared(lake: dict | None, learnt: dict | None) -> str:
    """Return in words what of a lake cannot be compared, and why; "" where all can."""
    if lake is None or learnt is None:
        return "modality and body part: one of the lakes was written before these were counted"
    names = [
        what
        for what, _, exams, is_comparable, _ in _comparisons(lake)
        if not any(is_comparable(e, learnt) for e in exams.values())
    ]
    return f"{' and '.join(names)}: one of the lakes names none that DICOM has" if names else ""


def _comparisons(lake: dict) -> tuple[tuple, ...]:
    """Return (what it is called, its key in counts, the Exam of each of its words, whether one can
    be compared with a lake, how it differs from one) for the modality and for the body part."""
    modalities = {word: Exam(word) for word in lake[MODALITIES] if word != ABSENT}
    body_parts = {word: Exam("", (word,)) for word in _terms(lake[BODY_PARTS])}
    return (
        ("modality", MODALITIES, modalities, has_modality, _other_modality),
        ("body part", BODY_PARTS, body_parts, has_body_parts, _other_body_part),
    )


def has_modality(exam: Exam, lake: dict) -> bool:
    """Return whether both an image and a lake say what took them. A word beyond the vocabulary is
    another one than all within it, but nobody knows which."""
    is_clear = exam.modality != OTHER or OTHER not in lake[MODALITIES]
    return bool(exam.modality) and is_clear and bool(_terms(lake[MODALITIES]))


def has_body_parts(exam: Exam, lake: dict) -> bool:
    """Return whether both an image and a lake say which part of the body they show, in words of the
    vocabulary: devices and people write all kinds of others."""
    return bool(_terms(exam.body_parts)) and bool(_terms(lake[BODY_PARTS]))


def modalities_alike(words: Iterable[str]) -> set[str]:
    """Return the modalities of a lake, and those that count as one of them."""
    terms = set(_terms(words))
    return terms | RADIOGRAPHS if terms & RADIOGRAPHS else terms


def _terms(words: Iterable[str]) -> list[str]:
    """Return the words of the vocabulary."""
    return [word for word in words if word not in (OTHER, ABSENT)]


def _other_modality(exam: Exam, lake: dict) -> Reject | None:
    """Return the Reject of an image whose modality the lake does not have, else None."""
    words = lake[MODALITIES]
    if not has_modality(exam, lake) or exam.modality in modalities_alike(words):
        return None
    word = "no term of DICOM" if exam.modality == OTHER else exam.modality
    return Reject("other-modality", f"modality {word}, and {_learnt(in_words(words))}")


def _secondary_capture(exam: Exam, lake: dict) -> Reject | None:
    """Return the Reject of a secondary capture where the lake has none, else None."""
    if not exam.is_capture or lake[CAPTURES] or not _terms(lake[MODALITIES]):
        return None
    message = f"a secondary capture, as of a screen, and {_learnt('none')}"
    return Reject("secondary-capture", message)


def _other_body_part(exam: Exam, lake: dict) -> Reject | None:
    """Return the Reject of an image of a part of the body that the lake does not have, else
    None."""
    if not has_body_parts(exam, lake):
        return None
    parts, words = _terms(exam.body_parts), lake[BODY_PARTS]
    if any(_overlap(part, other) for part in parts for other in _terms(words)):
        return None
    message = f"body part {' and '.join(parts)}, and {_learnt(in_words(words))}"
    return Reject("other-body-part", message)


def _learnt(words: str) -> str:
    return f"the networks learnt from {words}; leave it out, or give {OPTION}"


def _overlap(part: str, other: str) -> bool:
    """Return whether two parts of the body are one, or one lies in the other."""
    is_inside = part in INNER_PARTS.get(other, ()) or other in INNER_PARTS.get(part, ())
    return part == other or WHOLE_BODY in (part, other) or is_inside
