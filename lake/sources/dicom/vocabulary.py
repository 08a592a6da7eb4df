"""Header text that a lake may store: closed vocabularies, as free text could name a person."""

import re

VIEWS = frozenset(("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO"))
SEXES = frozenset(("M", "F", "O"))
MODALITIES = frozenset(("CR", "DX", "CT", "MR", "MG", "PT", "US", "XA", "RF", "SC", "OT"))
# SIIM's ages have no unit.
YEARS_PER_UNIT = {"Y": 1, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25, "": 1}
AGE_CAP = 90  # HIPAA's safe harbour: 90 and over are one group


def age_years(value: str) -> int:
    """Return whole years of a DICOM age string: 90 for 90 and over, -1 when unknown or
    impossible."""
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", value.strip().upper())
    if not match:
        return -1
    years = int(int(match[1]) * YEARS_PER_UNIT[match[2]])
    return min(years, AGE_CAP) if years <= 120 else -1


def word_of(vocabulary: frozenset[str], value: str) -> str:
    """Return the value in capitals where it is in the vocabulary, else "": an unknown word could be
    a person's name."""
    return value.upper() if value.upper() in vocabulary else ""
