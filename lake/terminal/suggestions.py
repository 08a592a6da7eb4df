"""What a mistyped name probably meant: the one home of "did you mean". In: a name, and those that
there are; out: a question, or nothing where none is like it."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], limit: int = 1) -> list[str]:
    """Return the names most like this one, the likeliest first, each once."""
    candidates = list(dict.fromkeys(names))
    by_small_letters = {candidate.lower(): candidate for candidate in reversed(candidates)}
    matches = difflib.get_close_matches(name.lower(), by_small_letters, n=limit)
    return [by_small_letters[match] for match in matches]


def question(name: str, names: Iterable[str], limit: int = 1) -> str:
    """Return `did you mean NAME?`, or "" where no name is like it."""
    matches = nearest(name, names, limit)
    return f"did you mean {' or '.join(matches)}?" if matches else ""
