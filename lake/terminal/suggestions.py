"""What a mistyped name probably meant: the one home of "did you mean". In: a name, and those that
there are; out: a question, or nothing where none is like it."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], limit: int = 1) -> list[str]:
    """Return the names most like this one, the likeliest first, each once: one alone where the case
    of letters, or hyphens for underscores, are all that differs."""
    candidates = {_plain(candidate): candidate for candidate in reversed([*names])}
    if _plain(name) in candidates:
        return [candidates[_plain(name)]]
    matches = difflib.get_close_matches(_plain(name), candidates, n=limit)
    return [candidates[match] for match in matches]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def question(name: str, names: Iterable[str], limit: int = 1) -> str:
    """Return `did you mean NAME?`, or "" where no name is like it."""
    matches = nearest(name, names, limit)
    return f"did you mean {' or '.join(matches)}?" if matches else ""
