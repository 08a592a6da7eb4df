"""The Dockerfiles and the pinned requirements, as far as they can be checked without an engine."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "launch").glob("*.Dockerfile"))


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {re.sub(r"\[.*\]", "", package).lower(): version for package, version in pairs}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_linter_has_nothing_to_say(path):
    hadolint = Path(sys.executable).with_name("hadolint")
    process = subprocess.run([hadolint, path], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_has_every_package_and_no_more_is_sent_to_the_engine(path):
    packages = {folder.parent.name for folder in ROOT.glob("*/__init__.py")} | {"configs"}
    folders = set(re.findall(r"^COPY (\w+) \1$", path.read_text(), re.MULTILINE))
    assert folders == packages
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in patterns if line.startswith("!")} == {
        *packages,
        *("requirements", "pyproject.toml", "setup.py"),
    }


@pytest.mark.parametrize(
    ("name", "extra"), [("gpu.txt", "train-gpu"), ("tpu.txt", ""), ("beam.txt", "")]
)
def test_the_pins_are_within_the_bounds_of_setup_py(name, extra):
    versions = pins(name)
    for text in metadata.requires("radlake"):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            assert requirement.specifier.contains(versions[requirement.name.lower()]), text


def test_the_worker_s_beam_is_the_image_s():
    text = (ROOT / "launch" / "beam.Dockerfile").read_text()
    assert f"apache/beam_python3.12_sdk:{pins('beam.txt')['apache-beam']}\n" in text
