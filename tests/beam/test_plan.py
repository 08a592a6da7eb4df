"""Splits, folds and shards: quotas hold, patients stay whole, nothing depends on the order of
arrival."""

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest

from beam.conversion import earlier_lake, image_rows, listing, options, plan, quotas
from beam.conversion.labelling import LabelledImage
from beam.conversion.meeting import Tally
from beam.running import runners
from lake import InputError, Reject, Stopped
from lake.labels import tables
from lake.scan import Geometry, Header, stable_hash

SPLITS = quotas.parse("train=0.8,val=0.1,test=0.1")


def options_with(**changes) -> options.ConversionOptions:
    flags = options.parser().parse_args(
        ["--images=x", "--labels=y", "--output=a/b/1.0.0", "--deidentify=keep"]
    )
    return dataclasses.replace(options.from_flags(flags, True, None), **changes)


def make_image(name: str, patient: str = "", lesion_px: int = 0, split: str = "") -> LabelledImage:
    header = Header(f"/x/{name}", 1, name, 100, 100, 8, patient, "", "", "PA", "F", 50, "CR")
    return LabelledImage(header, tables.Label(int(lesion_px > 0), True, lesion_px, "-1"), split)


def planned(images: list[LabelledImage], earlier=None, **changes) -> dict[str, tuple]:
    """{image id: (split, shard, shards, fold)} as the pipeline's functions make it."""
    conversion = options_with(**changes)
    gather = plan.Gather(conversion)
    rows = [image_rows.to_row(image, earlier, conversion) for image in images]
    accumulators = []
    for start in range(0, len(rows), 7):  # many bundles
        accumulator = gather.create_accumulator()
        for row in rows[start : start + 7]:
            accumulator = gather.add_input(accumulator, row)
        accumulators.append(accumulator)
    assignment = gather.extract_output(gather.merge_accumulators(accumulators))
    places = {}
    for image in images:
        key, (_, fold, same) = plan.to_shard(image, assignment)
        assert same is image
        places[image.header.image_id] = (*key, fold)
    return places


def cohort(num_patients: int, seed: int = 0) -> list[LabelledImage]:
    generator = random.Random(seed)
    return [
        make_image(f"p{p}_{n}", f"p{p}", generator.choice((0, 0, 0, generator.randrange(1, 9000))))
        for p in range(num_patients)
        for n in range(generator.choice((1, 1, 2, 3)))
    ]


@pytest.mark.parametrize(
    "text", ["train=0.8", "train=0.9,val=0.2", "train=1,train=0", "a,b", "train=x", "tr ain=1"]
)
def test_bad_splits(text):
    with pytest.raises(InputError, match="--splits"):
        quotas.parse(text)


def test_quota_holds_on_every_stretch_of_the_line():
    dealt = [SPLITS[number][0] for number in quotas.deal(2000, SPLITS)]
    for start in range(0, 1900, 7):
        for length in (10, 40, 100):
            count = Counter(dealt[start : start + length])
            for name, share in SPLITS:
                assert abs(count[name] - share * length) <= 2
    assert Counter(dealt) == {"train": 1600, "val": 200, "test": 200}


def test_two_splits_and_one():
    assert set(quotas.deal(50, quotas.parse("train=1"))) == {0}
    assert Counter(quotas.deal(100, quotas.parse("train=1/2,val=1/2"))) == {0: 50, 1: 50}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_arrival_does_not_matter(seed):
    images = cohort(60)
    expected = planned(images, folds=3)
    random.Random(seed).shuffle(images)
    assert planned(images, folds=3) == expected


def test_patients_stay_whole_and_lesion_sizes_are_dealt():
    images = cohort(2000)
    places = planned(images)
    splits_of = {}
    for image in images:
        splits_of.setdefault(image.header.patient, set()).add(places[image.header.image_id][0])
    assert all(len(names) == 1 for names in splits_of.values())
    count = Counter(place[0] for place in places.values())
    assert abs(count["train"] / len(images) - 0.8) < 0.01
    largest = {}
    for image in images:
        name = image.header.patient
        largest[name] = max(largest.get(name, 0), image.label.lesion_px)
    positives = sorted((size, name) for name, size in largest.items() if size)
    for decile in np.array_split(np.arange(len(positives)), 10):
        counts = Counter(next(iter(splits_of[positives[n][1]])) for n in decile)
        for name, share in SPLITS:
            assert abs(counts[name] - share * len(decile)) <= 2


def test_folds_divide_train_and_val_alone():
    images = cohort(500)
    places = planned(images, folds=5)
    folds = Counter(fold for split, _, _, fold in places.values() if split in ("train", "val"))
    assert set(folds) == set(range(5)) and max(folds.values()) < 1.2 * min(folds.values())
    assert {fold for split, _, _, fold in places.values() if split == "test"} == {-1}
    patients = {}
    for image in images:
        patients.setdefault(image.header.patient, set()).add(places[image.header.image_id][3])
    assert all(len(folds) == 1 for folds in patients.values())
    assert {fold for *_, fold in planned(images).values()} == {-1}


def test_a_column_decides_and_must_not_tear_a_patient():
    images = [make_image("a", "p", split="train"), make_image("b", "q", split="holdout")]
    by_column = planned(images, split_column="part")
    assert {name: place[0] for name, place in by_column.items()} == {"a": "train", "b": "holdout"}
    with pytest.raises(Stopped, match="in two splits, such as train and holdout|holdout and train"):
        planned([*images, make_image("c", "p", split="holdout")], split_column="part")


def test_an_earlier_lake_moves_nobody():
    images = cohort(400)
    before = planned(images, folds=4)
    names, places = [], []
    for image in images:
        for name in (f"patient/{image.header.patient}", f"image/{image.header.image_id}"):
            names.append(stable_hash(name))
            places.append(before[image.header.image_id])
    keys, first = np.unique(np.array(names, np.uint64), return_index=True)
    earlier = earlier_lake.EarlierLake(
        keys,
        np.array([places[n][0].encode() for n in first], "S16"),
        np.array([places[n][3] for n in first], np.int8),
    )
    grown = images + [make_image(f"new{n}", f"new{n}", n % 3 * 50) for n in range(40)]
    grown.append(make_image("p7_late", "p7", 3))
    after = planned(grown, earlier, splits_from="x", folds=4)
    for name, place in before.items():
        assert (after[name][0], after[name][3]) == (place[0], place[3])
    assert after["p7_late"][0] == before["p7_0"][0]
    new = Counter(after[f"new{n}"][0] for n in range(40))
    assert all(abs(new[name] - share * 40) <= 2 for name, share in SPLITS)
    with pytest.raises(Stopped, match="none of its patients"):
        planned([make_image("z", "z")], earlier, splits_from="x")


def test_a_group_is_the_patient_else_the_study_else_the_file():
    assert make_image("a", patient="p").group == make_image("b", patient="p").group
    assert make_image("a").group != make_image("b").group
    assert make_image("a#0001").group == make_image("a#0002").group  # frames of one file
    # A patient and a study of the same name are not the same group.
    assert make_image("a", patient="b").group != make_image("b").group


def test_the_patient_is_found_in_the_path():
    for pattern, images, path, patient in (
        (
            "patient[0-9]+",
            "/p1/CheXpert/train/*/*/*.jpg",
            "patient00002/study1/v.jpg",
            "patient00002",
        ),
        ("^([0-9]+)_", "/p1/nih/images_*/images/*.png", "images_001/images/1_000.png", None),
        ("([0-9]+)_[0-9]+", "/p1/nih/images_*/images/*.png", "images_001/images/17_003.png", "17"),
        ("(x)?1", "/p1/*.png", "1.png", None),
        ("^p1", "/p1/*.png", "p2.png", None),  # the folder before the wildcard is none
    ):
        choice = options_with(patient_pattern=pattern, images=images)
        path = f"{images.partition('*')[0].rpartition('/')[0]}/{path}"
        if patient is not None:
            assert listing.patient_in(path, choice) == patient
            continue
        with pytest.raises(Reject, match="finds no patient in") as caught:
            listing.patient_in(path, choice)
        assert caught.value.reason == "no-patient"


def test_slices_of_a_volume_stay_together_and_in_order():
    geometry = Geometry(1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    keys = [
        image_rows.image_key(
            dataclasses.replace(
                make_image(f"s#{frame:04d}"),
                header=dataclasses.replace(
                    make_image("s").header, series="s", geometry=geometry, frame=frame
                ),
            )
        )
        for frame in range(5)
    ]
    assert keys == list(range(keys[0], keys[0] + 5))
    slices = [
        dataclasses.replace(
            make_image(f"{series}#{frame:04d}"),
            header=dataclasses.replace(
                make_image(f"{series}#{frame:04d}").header,
                series=series,
                geometry=geometry,
                frame=frame,
            ),
        )
        for series, count in (("a", 9), ("b", 1), ("c", 2))
        for frame in range(count)
    ]
    places = planned(slices, splits="train=1")
    shards = {name.partition("#")[0]: place[1] for name, place in places.items()}
    # Every shard that the names count has records, and none has part of a series.
    [count] = {place[2] for place in places.values()}
    assert set(shards.values()) == set(range(count)) and count > 1


def test_shards_are_whole_balanced_and_not_empty():
    assert plan.num_shards(3, 10, options_with()) == 3
    assert plan.num_shards(900, 950_000_000, options_with()) == 10
    assert plan.num_shards(5001, 10, options_with()) == 6  # at most 1000 images in one
    places = planned([make_image(f"i{n}") for n in range(100)], splits="train=1")
    assert Counter(shard for _, shard, _, _ in places.values()) == {0: 25, 1: 25, 2: 25, 3: 25}


def test_the_whole_plan_runs_on_a_runner():
    import apache_beam
    from apache_beam.testing.test_pipeline import TestPipeline
    from apache_beam.testing.util import assert_that, equal_to

    images = cohort(30)
    expected = [(name, place[:3]) for name, place in planned(images).items()]
    with TestPipeline(runner=runners.LOCAL) as root:
        tally = root | "Tally" >> apache_beam.Create([Tally()])
        plans = root | apache_beam.Create(images) | plan.Plan(options_with(), tally)
        actual = plans.entries | apache_beam.Map(lambda item: (item[1][2].header.image_id, item[0]))
        assert_that(actual, equal_to(expected))
