"""data.cache: the same batches as without it, whatever the run draws; found again; refused where
there is no room."""

import dataclasses

import numpy as np
import pytest
from makers.marks import exhaustive

from lake import InputError
from lake.records import manifest
from trainer.config import run
from trainer.data import cache, splits
from trainer.data.batches import evaluation_batches, training_batches

SHA256 = "0" * 64


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
        {"side": 128, "batch_size": 4, "positives_only": True, "group_shards": 1},
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
    assert files.keys() == {"image.npy", "mask.npy", "others.npz"}


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
    assert cache.num_bytes(split, settings) == images.image.nbytes + images.mask.nbytes
