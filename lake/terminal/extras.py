"""What pip installs only where it is asked for."""

import importlib.util

from lake import InputError


def check_installed(option: str, *modules: str, extra: str) -> None:
    """Raise InputError where an option, or a command, needs modules that are not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        needs = f"{option} needs {' and '.join(missing)}"
        raise InputError(f"{needs}; pip install 'radlake[{extra}]'")
