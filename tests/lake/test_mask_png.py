"""The mask encoder against two independent decoders, and a record of the writer before it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lake.inspection import verify_shard
from lake.labels import rle
from lake.records import example, mask_png, tfrecord
from lake.sources import pixels

# One record of writer version 2, whose masks had eight bits per pixel: a square of 3 x 7 pixels in
# an image of 5 x 11.
OLD_SHARD = Path(__file__).with_name("writer_2.tfrecord")
SIZES = ((1, 1), (1, 300), (300, 1), (8, 8), (64, 64), (65, 7), (7, 65), (200, 33), (1024, 1024))


def masks():
    random = np.random.default_rng(0)
    for height, width in SIZES:
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
    png = mask_png.encode(mask)
    with Image.open(io.BytesIO(png)) as image:
        image.verify()  # checksums of the chunks
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "1" and (np.asarray(image) == claim).all()
    pixels = mask_png.decode(png)
    assert pixels.dtype == np.uint8 and (pixels == mask).all()


@pytest.mark.parametrize("channels", [0, 1])
def test_tensorflow_reads_it_too(channels):
    tf = pytest.importorskip("tensorflow")
    for claim in masks():
        mask = claim.astype(np.uint8) * 255
        pixels = tf.io.decode_png(mask_png.encode(mask), channels).numpy()
        assert pixels.shape == (*mask.shape, 1) and (pixels[..., 0] == mask).all()


def test_the_same_mask_gives_the_same_bytes():
    for height, width in SIZES:
        empty = np.zeros((height, width), np.uint8)
        assert mask_png.encode_empty(height, width) == mask_png.encode(empty)
        assert mask_png.encode(empty + 1) == mask_png.encode(empty + 255)


def test_runs_are_encoded_as_their_mask_is():
    bars = np.zeros((70, 130), bool)  # across words of 64 columns, from the first row to the last
    bars[0, ::3], bars[5:60, 60:70], bars[69, 1::3] = True, True, True
    across = np.zeros((9, 20), bool)
    across[4:, 3], across[:2, 4] = True, True  # a run that goes on into the next column
    for claim in (*masks(), bars, bars[:, :64], bars[:, 1:66], across):
        mask = claim.astype(np.uint8) * 255
        assert mask_png.encode_runs(rle.from_mask(mask), *mask.shape) == mask_png.encode(mask)


def test_masks_are_small():
    mask = np.zeros((1024, 1024), np.uint8)
    assert len(mask_png.encode(mask)) < 1000
    mask[300:600, 200:400] = 255
    assert len(mask_png.encode(mask)) < 3000


def test_a_record_of_the_writer_before_is_read():
    expected = np.zeros((5, 11), np.uint8)
    expected[1:4, 2:9] = 255
    with OLD_SHARD.open("rb") as file:
        [(record, is_intact)] = tfrecord.records(file)
    fields = example.decode(record)
    assert is_intact and example.encode(fields) == record
    assert (mask_png.decode(fields["mask"]) == expected).all()
    assert fields["original_rle"].decode() == rle.encode(expected)
    assert not [*verify_shard.pixel_problems(fields, "uint8"), *verify_shard.label_problems(fields)]


def test_training_reads_a_record_of_the_writer_before():
    tf = pytest.importorskip("tensorflow")
    from trainer.data import record

    [old_record] = tf.data.TFRecordDataset(str(OLD_SHARD))
    item = record.decode_record(old_record, "uint8", 11, "pad")
    assert item["mask"].numpy()[..., 0].sum() == 21
    assert (item["mask"].numpy()[4:7, 2:9] == 1).all()  # three rows of padding above


@pytest.mark.parametrize("side", [1, 2, 3, 9, 100])
@pytest.mark.parametrize("size", [(600, 480), (480, 600), (37, 1000), (3000, 2500)])
def test_no_lesion_vanishes_in_shrinking(side, size):
    rng = np.random.default_rng(side)
    for longest in (1, 2, 16, 205, 599):
        height, width = pixels.shrunk_size(*size, longest)
        row, column = (int(rng.integers(0, max(1, length - side))) for length in size)
        mask = np.zeros(size, np.uint8)
        mask[row : row + side, column : column + side] = 255
        small, is_kept = mask_png.shrink(mask, height, width)
        assert small.shape == (height, width) and small.any()
        assert set(np.unique(small)) <= {0, 255}
        if is_kept:  # the pixel in which most of the lesion lies
            ((at_row, at_column),) = np.argwhere(small)
            rows, columns = np.nonzero(mask)
            assert at_row in rows * height // size[0] and at_column in columns * width // size[1]
    empty, is_kept = mask_png.shrink(np.zeros(size, np.uint8), 20, 16)
    assert not empty.any() and not is_kept


def test_of_several_lesions_that_vanish_the_largest_stays():
    mask = np.zeros((600, 480), np.uint8)
    mask[10, 10], mask[300:303, 200:202], mask[599, 479] = 255, 255, 255
    small, is_kept = mask_png.shrink(mask, 60, 48)
    assert is_kept and np.argwhere(small).tolist() == [[30, 20]]
