"""What the largest images cost: ten seconds of CPU, and 250 MB with 30 bytes per pixel."""

import numpy as np
import pytest
from makers import largest_reads
from makers.marks import exhaustive
from PIL import Image

from lake import Reject
from lake.sources import pixels
from lake.sources.codecs import claims


@exhaustive
@pytest.mark.parametrize("kind", largest_reads.KINDS)
def test_the_largest_image_stays_within_its_bounds(kind, tmp_path):
    cost = largest_reads.run(kind, 10_000, tmp_path)
    assert cost.cpu_s <= 10 and cost.peak_bytes <= 250e6 + 30 * cost.pixels
    assert cost.outcome == ("too-large" if kind == "jpeg-2000" else "png")


def test_a_large_image_is_coded_without_loss(monkeypatch, tmp_path):
    monkeypatch.setattr(pixels, "LARGE_PIXELS", 1000)
    for dtype in (np.uint8, np.uint16):
        image = np.random.default_rng(0).integers(0, 2 ** (8 * dtype().itemsize), (40, 70), dtype)
        for view in (image, image[:, ::-1], image.T):
            (tmp_path / "a.png").write_bytes(pixels.to_png(view))
            with Image.open(tmp_path / "a.png") as picture:
                assert picture.mode == ("L" if dtype == np.uint8 else "I;16")
                assert (np.asarray(picture) == view).all()


def test_a_jpeg_2000_of_too_many_bytes_is_not_decoded():
    stated = claims.Claims("jpeg-2000", 9000, 9000, 1, 16, False, True)
    with pytest.raises(Reject, match="33,554,432") as reject:
        claims.check_claims(bytes(2**25 + 1), stated, 9000, 9000, 1)
    assert reject.value.reason == "too-large"
    claims.check_claims(bytes(2**25), stated, 9000, 9000, 1)
