"""Fixtures: phantom X-rays, the lake that the real Beam job makes of them, the real images where
they are."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Small networks compile longer than they run: XLA's own passes stay, LLVM's are left out, in
# TensorFlow and JAX, and in the processes that tests start. A third to nine tenths of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A folder of 40 phantoms of 128 px: dicom/*.dcm and train-rle.csv."""
    from beam import synthetic

    folder = tmp_path_factory.mktemp("phantoms")
    synthetic.write(folder, images=40, seed=1, side=128, positive_share=0.4)
    return folder


@pytest.fixture(scope="session")
def key_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("key") / "deidentify.key"
    path.write_bytes(bytes(range(32)))
    return path


@pytest.fixture(scope="session")
def convert(key_file):
    """Runs beam.convert in this process; returns the manifest."""
    from beam import convert

    def run(images, labels, output, *options: str) -> dict:
        arguments = [f"--images={images}", f"--labels={labels}", f"--output={output}"]
        return convert.run(
            [*arguments, f"--deidentify_key_file={key_file}", "--runner=DirectRunner", *options]
        )

    return run


@pytest.fixture(scope="session")
def lake(phantoms, convert, tmp_path_factory) -> Path:
    """The lake of the phantoms: 24 train, 8 val, 8 test."""
    folder = tmp_path_factory.mktemp("lakes") / "phantoms" / "1.0.0"
    convert(
        phantoms / "dicom" / "*.dcm",
        phantoms / "train-rle.csv",
        folder,
        "--splits=train=0.6,val=0.2,test=0.2",
    )
    return folder


@pytest.fixture(scope="session")
def systems(lake, tmp_path_factory) -> dict[str, list[str]]:
    """The options of runs of random weights; trained.systems."""
    from makers import trained

    return trained.systems(tmp_path_factory.mktemp("systems"), lake)


@pytest.fixture(scope="session")
def exported(systems, tmp_path_factory) -> Path:
    """An export of the cascade of `systems`."""
    from makers import trained

    folder = tmp_path_factory.mktemp("exported") / "cascade"
    trained.run_task("export", *systems["cascade"], "--output", folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, which are not part of the repository."""
    folder = os.environ.get("RADLAKE_REAL_DATA")
    if not folder:
        pytest.skip("RADLAKE_REAL_DATA does not name the folder of real images")
    return Path(folder)
