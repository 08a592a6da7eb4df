"""Files of one name in several folders are predicted, each under an id with its folders."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from beam.prediction import listing
from lake.scan import ReaderSettings, Storage
from trainer.prediction import input_files

SETTINGS = ReaderSettings(False, "name", Storage(8, None))
NAMES = ("p0/chest.png", "p0/side_0.png", "p1/chest.png", "p1/x.png", "p1/x.jpg")
IDS = {"p0/chest", "side_0", "p1/chest", "p1/x"}


def write_images(folder: Path) -> None:
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name)


def test_predict_takes_ids_with_folders_where_names_repeat(tmp_path):
    write_images(tmp_path)
    inputs = input_files.from_files([str(tmp_path)], SETTINGS)
    assert set(inputs.headers) == IDS
    (reject,) = inputs.rejects  # of one folder: nothing tells them apart
    assert reject["reason"] == "duplicate-id"
    folders = [str(tmp_path / name) for name in ("p0", "p1")]
    assert set(input_files.from_files(folders, SETTINGS).headers) == IDS
    # One folder alone has no name twice in several folders.
    assert set(input_files.from_files(folders[:1], SETTINGS).headers) == {"chest", "side_0"}


def test_predict_files_takes_the_same_ids(tmp_path):
    write_images(tmp_path)
    options = SimpleNamespace(
        reader_settings=SETTINGS, images_root=str(tmp_path), progress_file=None
    )
    files = [(str(tmp_path / name), (tmp_path / name).stat().st_size, 0.0) for name in NAMES]
    groups = {}
    for key, pair in listing.read_headers(("first", files), options):
        groups.setdefault(key, []).append(pair)
    chosen, rejects = [], []
    for group in groups.items():
        for one in listing.choose_images(group, options):
            (chosen if isinstance(one, tuple) else rejects).append(one)
    assert {image.header.image_id for _, image in chosen} == IDS
    assert [one.value["reason"] for one in rejects] == ["duplicate-id"]
