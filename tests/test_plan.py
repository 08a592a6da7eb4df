"""Splits and shards: quotas hold, patients stay whole, nothing depends on the order of arrival."""

import random
from collections import Counter

import apache_beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from beam import plan
from beam.listing import Image
from lake import InputError, labels
from lake.sources import Header

SPLITS = plan.parse_splits("train=0.8,val=0.1,test=0.1")


def image(name: str, patient: str = "", lesion_px: int = 0) -> Image:
    header = Header(f"/x/{name}", 1, name, patient, "", "", 100, 100, 8, "PA", "F", 50, "CR")
    return Image(header, labels.Label(int(lesion_px > 0), True, lesion_px, "-1"))


@pytest.mark.parametrize(
    "text", ["train=0.8", "train=0.9,val=0.2", "train=1,train=0", "a,b", "train=x", "tr ain=1"]
)
def test_bad_splits(text):
    with pytest.raises(InputError, match="--splits"):
        plan.parse_splits(text)


def test_quota_holds_on_every_stretch_of_the_line():
    dealt = [plan.deal(position, SPLITS) for position in range(2000)]
    for start in range(0, 1900, 7):
        for length in (10, 40, 100):
            count = Counter(dealt[start : start + length])
            for name, share in SPLITS:
                assert abs(count[name] - share * length) <= 2
    assert Counter(dealt) == {"train": 1600, "val": 200, "test": 200}


def test_two_splits_and_one():
    assert {plan.deal(p, plan.parse_splits("train=1")) for p in range(50)} == {"train"}
    halves = Counter(plan.deal(p, plan.parse_splits("train=1/2,val=1/2")) for p in range(100))
    assert halves == {"train": 50, "val": 50}


@pytest.mark.parametrize("seed", [0, 1])
def test_hash_order_ranks_each_line_the_same_whatever_the_order_of_arrival(seed):
    items = [("even" if n % 2 == 0 else "odd", f"name {n}", n) for n in range(500)]
    expected = []
    for line, start in (("even", 0), ("odd", 250)):
        own = sorted((plan.order(name), n) for kind, name, n in items if kind == line)
        expected += [(line, rank, 250, start + rank, n) for rank, (_, n) in enumerate(own)]
    random.Random(seed).shuffle(items)
    with TestPipeline(runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner") as root:
        assert_that(root | apache_beam.Create(items) | plan.InHashOrder(), equal_to(expected))


def test_strata_follow_lesion_size_and_number_of_images():
    sizes = [0, 1, 10, 100, 1000, 10_000]
    strata = [plan.stratum([image("a", lesion_px=px)])[0] for px in sizes]
    assert strata == sorted(strata) and strata[0] == 0 and len(set(strata)) >= 5
    assert plan.stratum([image("a"), image("b", lesion_px=100)])[1] == 2


def test_a_group_is_the_patient_else_the_study_else_the_image():
    assert image("a", patient="p").group == image("b", patient="p").group
    assert image("a").group != image("b").group
    # A patient and a study of the same name are not the same group.
    assert image("a", patient="b").group != image("b").group


def test_shards_are_whole_balanced_and_not_empty():
    assert plan.num_shards(images=3, total_bytes=10, shard_mb=100, min_shards=4) == 3
    assert plan.num_shards(images=1000, total_bytes=950_000_000, shard_mb=100, min_shards=4) == 10
    keys = [plan.to_shard(("train", p, 10, p, "x"), {"train": 1}, 100, 4)[0] for p in range(10)]
    assert Counter(shard for _, shard, _ in keys) == {0: 3, 1: 2, 2: 3, 3: 2}
