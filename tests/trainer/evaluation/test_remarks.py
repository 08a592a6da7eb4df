"""What is said of scores, and what is not, on made outcomes: no network is trained."""

import numpy as np
import pytest
from makers import predictions

from trainer.evaluation import scores, surfaces
from trainer.evaluation.choice import choose
from trainer.evaluation.outcomes import decide
from trainer.evaluation.predictions import THRESHOLDS, Predictions
from trainer.evaluation.remarks import Remark, remarks
from trainer.evaluation.scores import ScoreOptions
from trainer.inference import counts
from trainer.inference.decision import Decision, Triplet

OPTIONS = ScoreOptions(replicates=300)
KEEPS_ALL = Decision(Triplet(0.5, 0.0, 0.5))
EMPTIES = Decision(Triplet(0.99, 0.016, 0.9))


def split_of(maps, masks, lesion=None, groups=None) -> Predictions:
    """Return the predictions of maps [S, S] whose truth is `masks`, each of another patient."""
    rows = [counts.from_image(p, mask, THRESHOLDS) for p, mask in zip(maps, masks, strict=True)]
    number = len(rows)
    highest = np.float32([p.max() for p in maps])
    unknown = np.array([""] * number)
    return Predictions(
        ids=np.array([f"i{n}" for n in range(number)]),
        groups=np.array(groups or [f"patient/{n}" for n in range(number)]),
        labels=np.float32([mask.any() for mask in masks]),
        scores=highest if lesion is None else np.float32(lesion),
        lesion=None if lesion is None else np.float32(lesion),
        views=unknown,
        sexes=unknown,
        ages=np.full(number, -1),
        spacing_mm=np.full((number, 2), 0.2),
        maps=surfaces.column([None] * number),
        has_mask=np.ones(number, bool),
        counts=counts.stack(rows, THRESHOLDS),
    )


def drawn_split(positives: int, negatives: int, p_hit=0.95, p_false=0.0, **more) -> Predictions:
    """Return a split whose lesions are squares with p_hit in the right half of them and p_false
    wherever there is no lesion."""
    maps, masks = [], []
    for number in range(positives + negatives):
        mask = np.zeros((20, 20), bool)
        if number < positives:
            mask[4:12, 3 + number % 5 : 11 + number % 5] = True
        p = np.full(mask.shape, p_false, np.float32)
        p[mask] = p_hit
        maps.append(p)
        masks.append(mask)
    return split_of(maps, masks, **more)


def remarks_on(decision: Decision, options=OPTIONS, **splits: Predictions) -> dict[str, Remark]:
    outcomes = {name: decide(split, decision) for name, split in splits.items()}
    results = {name: scores.score(split, options) for name, split in outcomes.items()}
    notes = remarks(outcomes, results, options)
    assert len({one.about for one in notes}) == len(notes)  # of the last split, where both have one
    return {one.about: one for one in notes}


def test_nothing_is_said_of_a_good_network_and_enough_images():
    split = drawn_split(40, 60)
    assert remarks_on(choose(split.counts, None), val=split, test=split) == {}


def test_thresholds_that_empty_every_mask():
    split = drawn_split(40, 60, p_hit=0.4)
    notes = remarks_on(EMPTIES, val=split, test=split)
    assert notes["thresholds_empty_all"].split == "val and test"
    assert "empty every mask of val and test: nothing is marked in any image" in (
        notes["thresholds_empty_all"].text
    )
    one = remarks_on(EMPTIES, val=drawn_split(40, 60, p_hit=0.4, p_false=0.995), test=split)
    assert one["thresholds_empty_all"].split == "test"


@pytest.mark.parametrize(
    ("hits", "false_alarms", "claim"),
    [
        (0.95, 0, None),
        (0.4, 8, "worse than one that never marks anything: mean dice 0.52 against 0.60"),
        (0.4, 1, "no better than one that never marks anything: mean dice 0.59 against 0.60"),
    ],
)
def test_a_network_no_better_than_one_that_never_marks_anything(hits, false_alarms, claim):
    maps, masks = [], []
    for number in range(100):
        mask = np.zeros((20, 20), bool)
        mask[2:9, 2:9] = number < 40
        p = np.where(mask, np.float32(hits), np.float32(0))
        if 60 <= number < 60 + false_alarms:
            p[15, 15] = 0.9
        maps.append(p)
        masks.append(mask)
    split = split_of(maps, masks)
    notes = remarks_on(KEEPS_ALL, val=split, test=split)
    assert ("not_better_than_empty" in notes) == (claim is not None)
    if claim:
        note = notes["not_better_than_empty"]
        assert note.text.startswith(f"On test the network is {claim}, and the 95% interval of the ")


def test_the_difference_is_paired():
    """Far more certain than two intervals beside each other: both have the same images."""
    split = drawn_split(50, 50)
    outcomes = decide(split, KEEPS_ALL)
    result = scores.score(outcomes, OPTIONS)
    assert result.values["dice_above_all_empty"] == pytest.approx(0.5)
    low, high = result.intervals["dice_all_empty"]
    assert result.intervals["dice_above_all_empty"] == pytest.approx((1 - high, 1 - low))
    # Two networks that differ in no image have a difference of 0 in each draw.
    same = scores.score(decide(split, EMPTIES._replace(triplet=Triplet(0.99, 1.1, 0.9))), OPTIONS)
    assert same.intervals["dice_above_all_empty"] == (0, 0) != same.intervals["dice_mean"]


def test_a_gain_that_luck_may_explain():
    split = drawn_split(2, 60, p_hit=0.95)
    notes = remarks_on(KEEPS_ALL, val=split, test=split)
    text = notes["not_better_than_empty"].text
    assert "not shown better than" in text and "[0.00, " in text


@pytest.mark.parametrize(("number", "words"), [(1, "1 image of test shows"), (12, "12 images of ")])
def test_few_images_with_a_lesion_or_without(number, words):
    enough, few = drawn_split(40, 40), drawn_split(number, 60)
    for kind, split in (("positives", few), ("negatives", drawn_split(60, number))):
        notes = remarks_on(KEEPS_ALL, val=enough, test=split)
        text = notes[f"few_{kind}"].text
        assert notes[f"few_{kind}"].split == "test" and text.startswith(f"Only {words}"), text
        assert ("too narrow" in text) == (number < 10)
        assert "and each of them counts much; of the 95% intervals, that of " in text
    widths = scores.score(decide(few, KEEPS_ALL), OPTIONS).intervals
    low, high = widths["sensitivity"]
    text = remarks_on(KEEPS_ALL, val=enough, test=few)["few_positives"].text
    assert f"that of sensitivity is {high - low:.2f} wide" in text


def test_few_patients_have_no_interval():
    split = drawn_split(40, 60, groups=[f"patient/{n % 9}" for n in range(100)])
    text = remarks_on(KEEPS_ALL, val=split, test=split)["no_intervals"].text
    assert text.startswith("test has fewer than 10 patients (9), so there are no 95% intervals")
    without = remarks_on(KEEPS_ALL, ScoreOptions(replicates=0), val=split, test=split)
    assert "no_intervals" not in without  # nobody wanted any
    images = drawn_split(3, 2, groups=[f"image_id/{n}" for n in range(5)])
    notes = remarks_on(KEEPS_ALL, val=images, test=images)
    assert "test has fewer than 10 images (5), so" in notes["no_intervals"].text
    assert "may be luck" in notes["few_positives"].text


def test_a_split_of_one_kind_of_images():
    enough = drawn_split(40, 40)
    text = remarks_on(KEEPS_ALL, val=enough, test=drawn_split(0, 40))["no_positives"].text
    assert "No image of test shows a lesion" in text
    assert "dice of images with a lesion, sensitivity, AUC and average precision have no v" in text
    text = remarks_on(KEEPS_ALL, val=enough, test=drawn_split(40, 0))["no_negatives"].text
    assert "Every image of test shows a lesion" in text and "specificity and AUC have no" in text
    unknown = drawn_split(20, 20)._replace(
        has_mask=np.zeros(40, bool), counts=counts.stack([], THRESHOLDS)
    )
    notes = remarks_on(KEEPS_ALL, val=enough, test=unknown)
    assert "no score of masks has a value" in notes["no_masks"].text


def test_thresholds_at_the_border_of_those_that_were_tried():
    """Around a lesion p is 0.85, and 0.95 in it: the highest of the bottoms, 0.9, is the best."""
    maps, masks = [], []
    for number in range(80):
        mask = np.zeros((20, 20), bool)
        mask[6:12, 6:12] = number < 40
        p = np.full(mask.shape, np.float32(0.85 if number < 40 else 0))
        p[mask] = 0.95
        maps.append(p)
        masks.append(mask)
    split = split_of(maps, masks)
    decision = choose(split.counts, None)
    assert decision.triplet.bottom == 0.9
    text = remarks_on(decision, val=split, test=split)["thresholds_at_border"].text
    assert "the bottom threshold is 0.9, the highest tried" in text and "chosen on val" in text
    # A border that is as good as its neighbour is none: the first of equals is taken.
    equal = drawn_split(40, 60)
    decision = choose(equal.counts, None)
    assert decision.triplet.bottom == 0.1 and not remarks_on(decision, val=equal, test=equal)


def test_thresholds_that_do_not_suit_the_test_split():
    val, test = drawn_split(40, 60, p_hit=0.95, p_false=0.65), drawn_split(40, 60, p_hit=0.35)
    decision = choose(val.counts, None)
    note = remarks_on(decision, val=val, test=test)["thresholds_do_not_transfer"]
    assert note.split == "test" and "a mean dice of 1.00 instead of 0.60" in note.text
    notes = remarks_on(decision, val=val, test=drawn_split(40, 60))
    assert "thresholds_do_not_transfer" not in notes


def test_scores_of_the_images_that_chose_the_thresholds():
    split = drawn_split(40, 60)
    assert "chosen on the images that are scored" in (
        remarks_on(KEEPS_ALL, val=split)["no_test_split"].text
    )


def test_p_that_is_no_probability_and_ranks_like_chance():
    right = [0.97] * 40 + [0.02] * 60
    good = drawn_split(40, 60, lesion=right)
    assert not remarks_on(KEEPS_ALL, val=good, test=good)
    bold = drawn_split(40, 60, lesion=[0.99] * 100)
    notes = remarks_on(KEEPS_ALL, val=good, test=bold)
    assert "is off by 0.59 on average" in notes["no_probability"].text
    assert "not shown to be better than by chance: AUC 0.50 [" in notes["ranks_like_chance"].text
    turned = drawn_split(40, 60, lesion=[1 - p for p in right])
    assert "worse than by chance" in remarks_on(KEEPS_ALL, val=turned)["ranks_like_chance"].text


def test_classes():
    split, _ = predictions.example(images=40)
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 6, 4])
    logits = np.float32(np.eye(3)[labels] * 9 + generator.random((40, 3)))
    split = split._replace(scores=logits, labels=np.float32(labels))
    notes = remarks_on(None, val=split, test=split)
    assert list(notes) == ["few_of_class"]
    assert notes["few_of_class"].text.startswith("Only 4 images of test are of class 2")


def test_sentences_are_plain():
    """Whole sentences, and no name of a program's in them."""
    few = drawn_split(3, 4, p_hit=0.4, lesion=[0.9] * 7)
    for decision in (EMPTIES, KEEPS_ALL, Decision(None, 0.5)):
        for numbers in ((3, 4), (0, 40), (3, 60)):
            split = drawn_split(*numbers, lesion=[0.9] * sum(numbers))
            for note in remarks_on(decision, val=few, test=split).values():
                assert note.text.endswith(".") and "_" not in note.text, note.text
                assert "nan" not in note.text and "{" not in note.text, note.text
