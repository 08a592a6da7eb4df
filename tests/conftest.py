"""Fixtures: phantom X-rays, the lake that the real Beam job makes of them, the real images where
they are."""

import fcntl
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Small networks compile longer than they run: XLA's own passes stay, LLVM's are left out, in
# TensorFlow and JAX, and in the processes that tests start. A third to nine tenths of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Launchers look at lakes on gs://, but no test does with the credentials of whoever runs it.
os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = "/no/credentials.json"

import pytest

from lake import storage

TESTS = Path(__file__).parent
# Collection imports thousands of modules, none of which is garbage before the end.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that no worker waits for the last file of another."""
    rooms = {"whole": 0, "trainer": 1}
    items.sort(key=lambda item: rooms.get(item.path.relative_to(TESTS).parts[0], 2))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a function: (name, write) -> the folder that `write` filled, once for all workers of
    pytest-xdist; who comes later waits. Tests read it and change copies."""
    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent

    def folder_of(name: str, write: Callable[[Path], None]) -> Path:
        folder = root / "shared" / name
        folder.parent.mkdir(exist_ok=True)
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                with storage.whole_folder(folder) as unfinished_folder:
                    write(unfinished_folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def phantoms(shared_folder) -> Path:
    """A folder of 40 phantoms of 128 px: dicom/*.dcm and train-rle.csv."""
    from beam import synthetic

    return shared_folder(
        "phantoms",
        lambda folder: synthetic.write(folder, images=40, seed=1, side=128, positive_share=0.4),
    )


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
def lake(phantoms, convert, shared_folder) -> Path:
    """The lake of the phantoms: 24 train, 8 val, 8 test."""

    def write(folder: Path) -> None:
        output, splits = folder / "phantoms" / "1.0.0", "--splits=train=0.6,val=0.2,test=0.2"
        convert(phantoms / "dicom" / "*.dcm", phantoms / "train-rle.csv", output, splits)

    return shared_folder("lakes", write) / "phantoms" / "1.0.0"


@pytest.fixture(scope="session")
def findings_lake(phantoms, convert, shared_folder) -> Path:
    """The multi-label lake of the phantoms, whose labels are those of makers.findings."""
    from makers import findings

    def write(folder: Path) -> None:
        output, labels = folder / "phantoms" / "1.0.0", folder / "chexpert.csv"
        labels.write_text(findings.chexpert_csv(phantoms))
        splits = "--splits=train=0.6,val=0.2,test=0.2"
        convert(phantoms / "dicom" / "*.dcm", labels, output, "--findings=all", splits)

    return shared_folder("findings_lakes", write) / "phantoms" / "1.0.0"


@pytest.fixture(scope="session")
def lake_of_findings(lake, shared_folder) -> Path:
    """The images of `lake` with the findings of makers.finding_lakes.NAMES."""
    from makers import finding_lakes

    def write(folder: Path) -> None:
        output = folder / "findings" / "1.0.0"
        output.mkdir(parents=True)
        finding_lakes.write(lake, output)

    return shared_folder("lakes_of_findings", write) / "findings" / "1.0.0"


@pytest.fixture(scope="session")
def findings_run(lake_of_findings, shared_folder) -> Path:
    """The workdir of a classifier of all findings that was trained for one epoch; its config is
    findings.yaml beside it (runs.FINDINGS)."""
    from makers import runs

    def write(folder: Path) -> None:
        runs.train_findings(folder, lake_of_findings)

    return shared_folder("findings_run", write) / "run"


@pytest.fixture(scope="session")
def systems(lake, shared_folder) -> dict[str, list[str | Path]]:
    """The options of runs of random weights; trained.systems."""
    from makers import trained

    folder = shared_folder("systems", lambda folder: trained.write_systems(folder, lake))
    return trained.systems(folder)


@pytest.fixture(scope="session")
def finished_run(lake, shared_folder) -> Path:
    """The workdir of a run of two epochs of 6 steps, with a checkpoint after each; its config is
    tiny.yaml beside it (runs.TINY)."""
    from makers import runs

    return shared_folder("trained", lambda folder: runs.train_tiny(folder, lake)) / "run"


@pytest.fixture(scope="session")
def exported(systems, shared_folder) -> Path:
    """An export of the cascade of `systems`."""
    from makers import trained

    def write(folder: Path) -> None:
        trained.run_task("export", *systems["cascade"], "--output", folder / "cascade")

    return shared_folder("exported", write) / "cascade"


@pytest.fixture(scope="session")
def package(shared_folder) -> Path:
    """The sdist of the checkout."""
    from launch import sdist

    [path] = shared_folder("sdist", sdist.build).glob("*.tar.gz")
    return path


@pytest.fixture
def one_sdist(package, monkeypatch) -> None:
    """Has launchers take that sdist, of which each would build its own."""
    from launch import sdist

    monkeypatch.setattr(sdist, "build", lambda folder: Path(shutil.copy(package, folder)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, which are not part of the repository."""
    folder = os.environ.get("RADLAKE_REAL_DATA")
    if not folder:
        pytest.skip("RADLAKE_REAL_DATA does not name the folder of real images")
    return Path(folder)
