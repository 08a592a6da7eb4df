"""The mask encoder against two independent decoders."""

import io

import numpy as np
import pytest
from PIL import Image

from lake.labels import rle
from lake.records import mask_png


def masks():
    random = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 300), (300, 1), (64, 64), (65, 7), (200, 33), (1024, 1024)):
        yield np.zeros((height, width), bool)
        yield np.ones((height, width), bool)
        yield random.random((height, width)) < 0.3
        lone = np.zeros((height, width), bool)
        lone[height // 2, width // 3] = True
        yield lone
        blob = np.zeros((height, width), bool)
        blob[height // 3 : 2 * height // 3, width // 4 : width // 2] = True
        yield blob


@pytest.mark.parametrize("claim", masks(), ids=lambda mask: f"{mask.shape}-{int(mask.sum())}")
def test_pillow_reads_back_what_was_written(claim):
    mask = claim.astype(np.uint8) * 255
    with Image.open(io.BytesIO(mask_png.encode(mask))) as image:
        image.verify()  # checksums of the chunks
    with Image.open(io.BytesIO(mask_png.encode(mask))) as image:
        assert image.mode == "L" and (np.asarray(image) == mask).all()


def test_tensorflow_reads_it_too():
    tf = pytest.importorskip("tensorflow")
    for claim in masks():
        mask = claim.astype(np.uint8) * 255
        assert (tf.io.decode_png(mask_png.encode(mask)).numpy()[..., 0] == mask).all()


@pytest.mark.parametrize("claim", masks(), ids=lambda mask: f"{mask.shape}-{int(mask.sum())}")
def test_runs_give_the_mask_that_they_mean(claim):
    joined = rle.from_mask(claim)
    with Image.open(io.BytesIO(mask_png.encode_runs(joined, *claim.shape))) as image:
        assert (np.asarray(image) == claim * 255).all()


def test_an_empty_mask_is_small():
    assert len(mask_png.encode(np.zeros((1024, 1024), np.uint8))) < 3000
