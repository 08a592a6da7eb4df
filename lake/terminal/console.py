"""How much a command says to its user: --quiet, nothing, or --verbose. Parsers set it; whoever
prints what is neither a result nor a warning asks here."""

QUIET, NORMAL, VERBOSE = -1, 0, 1
_volume = NORMAL


def set_volume(volume: int) -> None:
    """Say QUIET, NORMAL or VERBOSE for the rest of the process, or until the next command."""
    global _volume
    _volume = volume


def is_quiet() -> bool:
    """Return whether only results, warnings and errors are printed."""
    return _volume == QUIET


def is_verbose() -> bool:
    """Return whether the libraries' own logs are printed, too."""
    return _volume == VERBOSE


def note(text: str, **printing) -> None:
    """Print what is neither a result nor a warning nor an error, unless the command is quiet;
    `printing`: the options of print."""
    if not is_quiet():
        print(text, **printing)
