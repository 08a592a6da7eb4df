"""launch.training_run: the files and the name of a run."""

import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from lake import InputError
from launch import sdist, training_run, vertex

WORDS = ["--config=configs/unetpp.yaml", "--lake=gs://bucket/lakes/siim/1.0.0"]
WORDS += ["--workdir=gs://bucket/runs/unetpp", "--project=p", "--region=r", "--image=i"]


def test_the_files_are_the_sdist_and_the_config_with_its_overrides():
    flags = vertex.parser().parse_args([*WORDS, "--accelerator=l4"])
    with training_run.files(flags, ["--data.side=96"]) as (package, config):
        assert "side: 96" in config.read_text() and flags.lake in config.read_text()
        with tarfile.open(package) as sdist:
            names = {name.partition("/")[2] for name in sdist.getnames()}
        assert {"setup.py", "trainer/task.py", "radlake/words.py", "configs/unetpp.yaml"} <= names
    assert not package.exists() and not config.exists()
    with (
        pytest.raises(InputError, match=r"data\.sidd"),
        training_run.files(flags, ["--data.sidd=1"]),
    ):
        pass


def test_two_launches_at_once_build_their_sdists_one_after_the_other(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor() as pool:
        packages = list(pool.map(sdist.build, folders))
    contents = []
    for package in packages:
        with tarfile.open(package) as archive:
            contents.append(set(archive.getnames()))
    assert contents[0] == contents[1] and len(contents[0]) > 100


@pytest.mark.parametrize(
    ("config", "name"),
    [("configs/unetpp.yaml", "radlake-unetpp"), ("a/_U-Net++ v2_.yaml", "radlake-u-net-v2")],
)
def test_the_name_has_letters_that_google_cloud_takes(config, name):
    assert training_run.name(config) == name
