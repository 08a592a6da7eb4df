"""The checkout as one file that pip installs anywhere: what a launcher sends to its machines."""

import subprocess
import sys
from pathlib import Path

from lake import InputError

ROOT = Path(__file__).parent.parent


def build(folder: Path) -> Path:
    """Makes FOLDER/radlake-VERSION.tar.gz of this checkout; raises InputError."""
    if not (ROOT / "setup.py").exists():
        raise InputError(f"{ROOT} has no setup.py; launch from a checkout of radlake")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    command += ["sdist", "--dist-dir", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise InputError(f"the sdist could not be built:\n{made.stderr.strip()}")
    [path] = folder.glob("radlake-*.tar.gz")
    return path
