"""The checkout as one file that pip can install: what a launcher sends to its machines."""

import subprocess
import sys
from pathlib import Path

from lake import InputError

ROOT = Path(__file__).parent.parent


def build(folder: Path) -> Path:
    """Make FOLDER/radlake-VERSION.tar.gz from this checkout and return its path; raise InputError
    where this is no checkout, or it cannot be built."""
    if not (ROOT / "setup.py").exists():
        raise InputError(f"{ROOT} has no setup.py; launch from a checkout of radlake")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    command += ["sdist", "--dist-dir", str(folder)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise InputError(f"the sdist could not be built:\n{process.stderr.strip()}")
    [path] = folder.glob("radlake-*.tar.gz")
    return path
