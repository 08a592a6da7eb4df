"""CONTRIBUTING.md is true: its rooms, arrows and files are there, an image goes the way that it
says, and a loss needs no more than it says."""

import functools
import re
import runpy
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from makers import replica_steps

from trainer.config.learning import PIXEL_TERMS, Loss
from trainer.config.network import NETWORKS
from trainer.data import batches, record, splits
from trainer.scoring import losses
from trainer.training import step

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
TO_CHOOSE = "NAME"  # a part of a name that the reader chooses
ROOMS, ARROWS = re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)
MOST_FILES = 8  # on the way of an image


def section(title: str) -> str:
    """Return the text under a heading."""
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_it_has_every_room():
    folders, parents = set(), []
    for line in ROOMS.splitlines():
        if not (match := re.match(r"( *)(\w+)/ ", line)):  # goes on about the room above
            continue
        indent, name = match.groups()
        parents = [*parents[: len(indent) // 2], name]
        folders.add("/".join(parents))
    packages = ("lake", "beam", "trainer", "launch", "radlake")
    rooms = {path.parent for package in packages for path in (ROOT / package).rglob("__init__.py")}
    others = {"benchmarks", "configs", "docs", "requirements", "tests"}
    assert folders == {str(room.relative_to(ROOT)) for room in rooms} | others
    assert all((ROOT / name).is_dir() for name in others)


def test_it_has_the_arrows_that_the_house_has():
    rows = {line.split()[0]: set(line.split()[1:]) for line in ARROWS.splitlines()}
    table = runpy.run_path(str(ROOT / "tests" / "test_house.py"))["ARROWS"]["trainer"]
    assert rows == {room: set(others.split()) for room, others in table.items()}


def test_every_file_that_it_names_is_there():
    names = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", TEXT)
    assert len(names) > 30
    places = [ROOT, ROOT / "trainer"]  # `models/` is named inside trainer/
    wrong = [name for name in names if not any((place / name).exists() for place in places)]
    assert [name for name in wrong if TO_CHOOSE not in name] == []


def test_every_name_in_a_file_that_it_names_is_there():
    """`NAME` of `file.py`, or in it."""
    pairs = re.findall(r"`(\w+)` (?:of|in|there, of) `([\w/]+\.py)`", TEXT.replace("\n", " "))
    assert len(pairs) >= 7
    pairs = [(name, file) for name, file in pairs if TO_CHOOSE not in name]
    assert [pair for pair in pairs if not re.search(rf"\b{pair[0]}\b", read(pair[1]))] == []


def read(file: str) -> str:
    return (ROOT / file).read_text()


def way() -> list[str]:
    """Return the files of the numbered list."""
    return re.findall(r"^\d\. `(.*?)`", section("The way of an image"), flags=re.MULTILINE)


@functools.cache
def imports(file: str) -> str:
    return "\n".join(re.findall(r"^\s*(?:from|import) .*", read(file), flags=re.MULTILINE))


def test_the_way_of_an_image_is_short_and_its_files_import_one_another():
    files = way()
    assert len(files) <= MOST_FILES
    arrows = [
        ("trainer/training/run.py", "trainer/data/batches.py"),
        ("trainer/data/batches.py", "trainer/data/record.py"),
        ("trainer/training/step.py", "trainer/models/window.py"),
        ("trainer/training/step.py", "trainer/augmentation/augment.py"),
        ("trainer/models/build.py", "trainer/models/unetpp.py"),
        ("trainer/training/step.py", "trainer/scoring/objective.py"),
        ("trainer/scoring/objective.py", "trainer/scoring/losses.py"),
        ("trainer/training/loop.py", "trainer/training/step.py"),
    ]
    assert sorted(file for _, file in arrows) == sorted(files)
    assert not [pair for pair in arrows if Path(pair[1]).stem not in imports(pair[0])]


def test_an_image_goes_through_these_files(lake):
    """Every file of the list takes part when a batch of a lake becomes losses; the network's own
    file takes part when it is built."""
    filenames = set()

    def note(frame, event, _):
        filenames.add(frame.f_code.co_filename)

    config = replica_steps.config_with("batch", accumulate=1, momentum=0.9)
    record.decoder.cache_clear()  # what another test has traced would not run again
    sys.setprofile(note)
    try:
        run = replica_steps.build(config, tf.distribute.get_strategy())
        [manifest] = splits.open_lakes(str(lake), config.data)
        split = splits.training_split([manifest], str(lake), config.data, False)
        num_draws = step.augment.num_draws(config.augment, config.data.side)
        dataset = batches.training_batches(split, config.data, 0, 1, 0, num_draws)
        step.replica_gradients(run)(next(iter(dataset)), tf.constant(1.0))
    finally:
        sys.setprofile(None)
    assert not [file for file in way() if str(ROOT / file) not in filenames]


def test_a_loss_needs_a_term_and_a_weight_alone():
    assert losses.TERMS.keys() == set(PIXEL_TERMS) <= Loss.model_fields.keys()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_a_file_a_section_and_a_line(kind):
    module = kind if (ROOT / "trainer" / "models" / f"{kind}.py").exists() else None
    assert module and f'"{kind}": {module}' in read("trainer/models/build.py")
