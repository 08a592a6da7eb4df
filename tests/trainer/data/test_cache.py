"""data.cache: the same batches as without it, whatever the run draws; found again; refused where
there is no room."""

import dataclasses
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from makers.marks import exhaustive

from lake import InputError, storage
from lake.records import manifest
from trainer.config import run
from trainer.data import cache, splits
from trainer.data.batches import evaluation_batches, training_batches
from trainer.data.damage import locate_errors

SHA256 = "0" * 64
FILE_SIZE = resource.RLIMIT_FSIZE


def batches(split, settings, images=None, first_step=0):
    dataset = training_batches(split, settings, 5, 3, first_step, 4, images=images)
    return list(dataset.as_numpy_iterator())


def decode(split, settings, sha256=SHA256):
    return cache.decode_all(split, settings, sha256, evaluation_batches)


@pytest.fixture(params=["memory", "folder"])
def place(request, tmp_path):
    return "memory" if request.param == "memory" else str(tmp_path / "cache")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"side": 32, "batch_size": 8}, marks=exhaustive),
        {"side": 48, "batch_size": 4, "fit": "stretch", "positive_share": (0.8, 0.3)},
        pytest.param(
            {"side": 128, "batch_size": 4, "positives_only": True, "group_shards": 1},
            marks=exhaustive,
        ),
    ],
)
def test_batches_are_those_without_it(lake, place, settings):
    settings = run.Data(**settings, cache=place)
    split = splits.training_split([manifest.load(str(lake))], str(lake), settings, False)
    images = decode(split, settings)
    for first_step in (0, 2):
        plain, from_cache = (batches(split, settings, d, first_step) for d in (None, images))
        assert len(plain) == len(from_cache) > 2
        for one, other in zip(plain, from_cache, strict=True):
            assert one.keys() == other.keys()
            for name, values in one.items():
                assert values.dtype == other[name].dtype, name
                np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert any(batch["mask"].any() for batch in from_cache)


def test_of_part_of_a_split_only_that_is_kept(lake, place):
    settings = run.Data(side=32, batch_size=4, cache=place)
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")
    kinds = np.where(np.arange(len(split.kinds)) % 3, split.kinds, -1).astype(np.int8)
    part = dataclasses.replace(split, kinds=kinds)
    images = decode(part, settings)
    assert len(images.image) == part.num_records < split.num_records
    for one, other in zip(batches(part, settings), batches(part, settings, images), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_a_later_run_finds_it_again_unless_something_differs(lake, tmp_path, capsys):
    settings = run.Data(side=32, batch_size=8, cache=str(tmp_path))
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")

    def first_word(changes=None, sha256=SHA256):
        decode(split, settings.model_copy(update=changes or {}), sha256)
        return capsys.readouterr().out.split(" ")[0]

    assert first_word() == "caching"
    assert first_word() == first_word({"batch_size": 4}) == "cached:"
    assert (
        first_word({"side": 48})
        == first_word({"fit": "stretch"})
        == first_word(sha256="1" * 64)
        == "caching"
    )
    assert not list(tmp_path.glob("unfinished.*"))
    files = {path.name: path.stat().st_size for path in next(tmp_path.iterdir()).iterdir()}
    assert files.keys() == {"image.npy", "mask.npy", "others.npz", "checksums.json"}


@pytest.fixture(scope="module")
def cached(lake, tmp_path_factory):
    """A cache folder of the training split at 32 px, and what was put into it."""
    place = tmp_path_factory.mktemp("cached")
    settings = run.Data(side=32, batch_size=8, cache=str(place))
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")
    return place, split, decode(split, settings)


def all_rows(rows) -> np.ndarray:
    return rows[np.arange(len(rows))]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    **{
        f"{name}, {damage.__name__}": (name, damage, name)
        for name in ("image.npy", "mask.npy", "others.npz")
        for damage in (flip, cut, Path.unlink)
    },
    "no checksums": ("checksums.json", Path.unlink, "no checksums.json, as of a writer that was"),
    "cut checksums": ("checksums.json", cut, "checksums.json is damaged"),
    "flipped checksums": (
        "checksums.json",
        lambda path: path.write_text(path.read_text().replace("pad", "stretch")),
        "checksums.json is of other images",
    ),
    "list": ("checksums.json", lambda path: path.write_text("[1]"), "checksums.json is damaged"),
    "a folder": ("image.npy", make_folder, "image.npy"),
}
QUICK = ("image.npy, flip", "no checksums")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=exhaustive) for name in DAMAGE]
)
def test_a_damaged_cache_is_made_again_aloud(cached, tmp_path, capsys, name):
    """Also where a bit of one image is another: it would be trained on as it is."""
    place, split, expected = cached
    shutil.copytree(place, tmp_path / "cache")
    [folder] = (tmp_path / "cache").iterdir()
    file_name, damage, fault = DAMAGE[name]
    damage(folder / file_name)
    settings = run.Data(side=32, batch_size=8, cache=str(tmp_path / "cache"))
    images = decode(split, settings)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{folder}: ") and lines[1].endswith("; it is made again")
    assert fault in lines[1] and lines[2].startswith("caching")
    for one, other in ((images.image, expected.image), (images.mask, expected.mask)):
        np.testing.assert_array_equal(all_rows(one), all_rows(other))
    decode(split, settings)
    assert capsys.readouterr().out.startswith("cached: ")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_the_cache_of_another_lake_is_not_taken_for_this_one(cached, tmp_path, capsys):
    place, split, _ = cached
    shutil.copytree(place, tmp_path / "cache")
    [folder] = (tmp_path / "cache").iterdir()
    settings = run.Data(side=32, batch_size=8, cache=str(tmp_path / "cache"))
    decode(split, settings, "1" * 64)
    [other] = {*(tmp_path / "cache").iterdir()} - {folder}
    shutil.rmtree(other)
    folder.rename(other)  # as if somebody had renamed it
    capsys.readouterr()
    decode(split, settings, "1" * 64)
    assert "checksums.json is of other images; it is made again" in capsys.readouterr().out


def test_a_cache_is_left_to_who_uses_it(cached, tmp_path):
    """A run that has opened it keeps its images where another one makes it again."""
    place, split, expected = cached
    shutil.copytree(place, tmp_path / "cache")
    settings = run.Data(side=32, batch_size=8, cache=str(tmp_path / "cache"))
    images = decode(split, settings)
    [folder] = (tmp_path / "cache").iterdir()
    (folder / "checksums.json").unlink()
    decode(split, settings)
    np.testing.assert_array_equal(all_rows(images.image), all_rows(expected.image))


def overwrite(path: Path) -> None:
    """Another bit in the file that is there, as no copy beside it leaves it."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


@pytest.mark.parametrize(
    ("name", "damage", "is_changed"),
    [
        ("image.npy", lambda path: os.truncate(path, 5000), True),
        ("mask.npy", overwrite, True),
        ("image.npy", Path.unlink, False),
        ("image.npy", os.utime, False),
    ],
)
def test_a_file_that_changes_while_it_is_in_use_ends_the_run(
    cached, tmp_path, capsys, name, damage, is_changed
):
    """A map of it into memory would end the process without a word."""
    place, split, _ = cached
    shutil.copytree(place, tmp_path / "cache")
    settings = run.Data(side=32, batch_size=8, cache=str(tmp_path / "cache"))
    images = decode(split, settings)
    expected = batches(split, settings, images)
    [folder] = (tmp_path / "cache").iterdir()
    damage(folder / name)
    config = run.Config(model={"kind": "unet"}, data=settings)
    if is_changed:
        message = f"^{folder / name} was changed while it was in use; repeat the command, which "
        with (
            pytest.raises(InputError, match=f"{message}.*again$"),
            locate_errors(config, "no lake, as it is not looked at"),
        ):
            batches(split, settings, images)
        return
    for one, other in zip(batches(split, settings, images), expected, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_a_disk_that_fills_is_one_message_and_leaves_nothing(lake, tmp_path):
    settings = run.Data(side=32, batch_size=8, cache=str(tmp_path / "cache"))
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")

    expected, limits = "cache/.*: File too large; make room there", resource.getrlimit(FILE_SIZE)
    resource.setrlimit(FILE_SIZE, (4096, limits[1]))
    try:
        with pytest.raises(InputError, match=expected), storage.explain_errors():
            decode(split, settings)
    finally:
        resource.setrlimit(FILE_SIZE, limits)
    assert not [*(tmp_path / "cache").iterdir()]


def test_places_that_cannot_hold_a_cache(lake, tmp_path):
    (tmp_path / "file").write_text("")
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")
    for place, message in (
        (tmp_path / "file", "file is a file; expected memory or a folder"),
        (tmp_path / "file" / "cache", "cannot be written: Not a directory; choose another"),
        ("/proc/nowhere/cache", "cannot be written"),
        ("gs://bucket/cache", "expected memory or a local folder"),
    ):
        with pytest.raises(InputError, match=message):
            decode(split, run.Data(side=32, batch_size=8, cache=str(place)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_ends_before_it_is_whole_leaves_nothing(lake, tmp_path):
    settings = run.Data(side=32, batch_size=8, cache=str(tmp_path))
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")

    def broken(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.decode_all(split, settings, SHA256, broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_no_room(lake, tmp_path, where):
    place = "memory" if where == "memory" else str(tmp_path / "cache")
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")
    settings = run.Data(side=16 * 2**18, batch_size=8, cache=place)  # 422,000 GB
    with pytest.raises(InputError, match=r"24 images at 4194304 px .* GB are free"):
        decode(split, settings)


def test_its_size_is_what_it_takes(lake, tmp_path):
    settings = run.Data(side=64, batch_size=8, cache=str(tmp_path))
    split = splits.named_split(manifest.load(str(lake)), str(lake), "train")
    images = decode(split, settings)
    nbytes = [all_rows(rows).nbytes for rows in (images.image, images.mask)]
    assert cache.num_bytes(split, settings) == sum(nbytes)
