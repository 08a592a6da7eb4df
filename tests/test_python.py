"""The Python that make chooses: .ci/python tries each name, make keeps an environment's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What a name on the PATH may stand for.
SHIM = """
echo "pyenv: python3.13: command not found" >&2
echo "The 'python3.13' command exists in these Python versions:" >&2
exit 127"""  # pyenv's, for a version that is not selected
DEBIAN = """
echo "Traceback (most recent call last):" >&2
echo "ModuleNotFoundError: No module named 'ensurepip'" >&2
exit 1"""  # Debian's, without python3-venv
VERSION = """
exec {python} -c 'import sys
sys.version_info = ({version}, 0)
_, _, code, *sys.argv[1:] = sys.argv
exec(code)' "$@"
"""  # one of this version, with all modules


def write(folder: Path, **scripts: str) -> None:
    """Write programs python3_13 … as python3.13 …"""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        path = folder / name.replace("_", ".")
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)


def version(text: str) -> str:
    return VERSION.format(python=sys.executable, version=text.replace(".", ", "))


def run(folder: Path, *command: str | Path) -> tuple[int, str, str]:
    """Run a command in `folder`, whose programs come first; return exit code, output, errors."""
    process = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return process.returncode, process.stdout.strip(), process.stderr


def checkout(folder: Path, *files: str) -> None:
    """Make what the installation depends on, and then empty files."""
    for name in ("setup.py", "radlake/__init__.py", *files):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / ".ci").symlink_to(ROOT / ".ci")


def choose(folder: Path, highest: str, *names: str) -> tuple[int, str, str]:
    return run(folder, ROOT / ".ci" / "python", highest, *names)


def test_a_name_that_lies_is_passed_over(tmp_path):
    write(tmp_path, python3_13=SHIM, python3_12=DEBIAN, python3_11=version("3.11"))
    names = "python3.13", "python3.12", "python3.11"
    assert choose(tmp_path, "3.13", *names)[:2] == (0, "python3.11")


@pytest.mark.parametrize(
    ("there", "highest", "is_chosen"),
    [
        ("3.10", "3.13", False),
        ("3.11", "3.13", True),
        ("3.13", "3.13", True),
        ("3.14", "3.13", False),
        ("3.13", "3.12", False),
        ("3.12", "3.12", True),
    ],
)
def test_the_versions_that_are_chosen(tmp_path, there, highest, is_chosen):
    write(tmp_path, python3=version(there))
    code, name, message = choose(tmp_path, highest, "python3")
    assert (code, name) == ((0, "python3") if is_chosen else (2, ""))
    assert (f"  python3: Python {there}\n" in message) != is_chosen


def test_without_one_it_says_what_was_tried_and_what_to_install(tmp_path):
    write(tmp_path, python3_13=SHIM, python3=DEBIAN)
    code, _, message = choose(tmp_path, "3.13", "python3.13", "python3", "python3.99")
    assert code == 2
    assert message.splitlines()[1:-1] == [
        "  python3.13: pyenv: python3.13: command not found",
        "  python3: ModuleNotFoundError: No module named 'ensurepip'",
        "  python3.99: command not found",
    ]
    assert "apt-get install python3-venv" in message and "PYTHON=/path/to" in message


def test_the_versions_are_those_of_the_package():
    setup = (ROOT / "setup.py").read_text()
    versions = re.findall(r'"(3\.\d+)"', re.search(r"PYTHONS = \[(.*)\]", setup)[1])
    makefile = (ROOT / "Makefile").read_text()
    names = [f"python{version}" for version in reversed(versions)]
    assert f"/python {versions[-1]} $(or $(PYTHON),{' '.join(names)} python3)" in makefile
    lowest, above = (version.split(".") for version in (versions[0], versions[-1]))
    above = f"{above[0]}.{int(above[1]) + 1}"
    assert f'python_requires=">={".".join(lowest)},<{above}"' in setup
    assert f"({', '.join(lowest)}) <= version" in (ROOT / ".ci" / "python").read_text()


def test_another_python_than_the_environment_s_is_an_error(tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    write(tmp_path, other="echo 3.99.1")
    make = "make", f"--file={ROOT}/Makefile", "same-python"
    assert run(tmp_path, *make, f"PYTHON={sys.executable}")[0] == 0
    code, _, message = run(tmp_path, *make, "PYTHON=other")
    assert code == 2 and "PYTHON=other is 3.99.1; make clean first" in message


def test_tensorflow_io_is_skipped_where_no_python_fits(tmp_path):
    """The environment of the tests is there; of Python, only 3.13 and a name that lies."""
    newest = version("3.13")
    write(tmp_path, python3_12=SHIM, python3_11=DEBIAN, python3=newest, python3_13=newest)
    checkout(tmp_path, ".venv/.installed", ".venv/.tests-installed")
    code, output, message = run(tmp_path, "make", f"--file={ROOT}/Makefile", "test-tfio")
    assert code == 0 and "skipped: make test-tfio" in output
    assert "  python3: Python 3.13\n" in message and "no Python from 3.11 to 3.12" in message


def test_the_demo_installs_what_users_need_and_the_tests_add_theirs(tmp_path):
    checkout(tmp_path)

    def extras(target: str) -> list[str]:
        _, output, _ = run(tmp_path, "make", f"--file={ROOT}/Makefile", "--dry-run", target)
        return [text.split(",")[1:] for text in re.findall(r"--editable '\.\[(.*?)\]'", output)]

    assert extras("demo") == [["seg"]]
    assert extras("test") == [["seg", "test"]]  # in one go
    everything = ["seg", "test", "test-all"]
    assert extras(".venv/.all-installed") == [["seg", "test"], everything]


def test_a_demo_deletes_a_trained_network_only_when_that_is_said(tmp_path):
    checkout(tmp_path, ".venv/.installed")
    weights = tmp_path / "demo" / "mine" / "runs" / "unetpp" / "best.weights.h5"
    weights.parent.mkdir(parents=True)
    weights.touch()
    demo = "make", f"--file={ROOT}/Makefile", "demo", "IMAGES=none", "LABELS=none"
    code, _, message = run(tmp_path, *demo)  # without a terminal
    assert code == 2 and "demo/mine has trained networks" in message and weights.exists()
    code, output, _ = run(tmp_path, *demo, "REPLACE=1")
    assert "== removing the last demo, demo/mine" in output and not weights.exists()
