"""launch.training_run: the files and the name of a run."""

import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lake import InputError
from launch import sdist, training_run, vertex

WORDS = ["--config=configs/unetpp.yaml", "--lake=gs://bucket/lakes/siim/1.0.0"]
WORDS += ["--workdir=gs://bucket/runs/unetpp", "--project=p", "--region=r", "--image=i"]


def test_the_files_are_the_sdist_and_the_config_with_its_overrides():
    flags = vertex.parser().parse_args([*WORDS, "--accelerator=l4"])
    config = training_run.config(flags, ["--data.side=96"])
    with training_run.files(config) as (package, config_path):
        text = config_path.read_text()
        assert "side: 96" in text and flags.lake in text
        with tarfile.open(package) as sdist:
            names = {name.partition("/")[2] for name in sdist.getnames()}
        assert {"setup.py", "trainer/task.py", "radlake/words.py", "configs/unetpp.yaml"} <= names
    assert not package.exists() and not config_path.exists()
    with pytest.raises(InputError, match=r"data\.sidd"):
        training_run.config(flags, ["--data.sidd=1"])


def build_as_beam_does(folder: Path) -> Path:
    command = [sys.executable, "setup.py", "sdist", "--dist-dir", str(folder)]
    subprocess.run(command, cwd=sdist.ROOT, check=True, capture_output=True)
    return next(folder.iterdir())


def test_sdists_are_built_one_after_the_other_whoever_builds_them(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor() as pool:
        builders = sdist.build, build_as_beam_does, sdist.build
        futures = [pool.submit(*pair) for pair in zip(builders, folders, strict=True)]
        packages = [future.result() for future in futures]
    contents = []
    for package in packages:
        with tarfile.open(package) as archive:
            contents.append(set(archive.getnames()))
    # Beam's also lists what the checkout's egg-info does.
    assert contents[0] == contents[2] <= contents[1] and len(contents[0]) > 100


@pytest.mark.parametrize(
    ("config", "name"),
    [("configs/unetpp.yaml", "radlake-unetpp"), ("a/_U-Net++ v2_.yaml", "radlake-u-net-v2")],
)
def test_the_name_has_letters_that_google_cloud_takes(config, name):
    assert training_run.name(config) == name
