"""What pip installs only where it is asked for."""

import importlib.util

from lake import InputError


def check_installed(option: str, *modules: str, extra: str) -> None:
    """Raise InputError where an option, or a command, needs modules that are not installed."""
    # Without an origin it is a folder of that name, such as W&B's runs.
    specs = {name: importlib.util.find_spec(name) for name in modules}
    missing = [name for name, spec in specs.items() if not getattr(spec, "origin", None)]
    if missing:
        needs = f"{option} needs {' and '.join(missing)}"
        raise InputError(f"{needs}; pip install 'radlake[{extra}]'")
