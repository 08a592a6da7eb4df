"""Numbers that are computed in another way have other names, in every place where they stand."""

import math
import re
import typing
from pathlib import Path

import keras
import numpy as np
import pytest
from makers import predictions

from trainer.config import files
from trainer.config.run import Config, Train
from trainer.config.score_names import EARLIER, EVALUATED, TRAINING, WIDEST
from trainer.display.progress import _in_words
from trainer.evaluation.outcomes import decide, with_outlines
from trainer.evaluation.scores import score_values
from trainer.inference.decision import Decision, Triplet
from trainer.scoring import sums

DOCS = Path(__file__).parents[3] / "docs"


def training_scores() -> dict[str, float]:
    """Return the scores of a segmenter on four images, as the loop computes them."""
    generator = np.random.default_rng(0)
    masks = np.float32(generator.random((4, 16, 16, 1)) > 0.9)
    batch = {"label": np.float32([1, 1, 0, 1]), "has_mask": np.ones(4, np.float32)}
    masks[2] = 0
    logits = np.float32(generator.normal(size=masks.shape))
    result = sums.example_sums(False, masks, logits, batch, None)
    return sums.scores({name: keras.ops.convert_to_numpy(value) for name, value in result.items()})


def test_the_loop_and_evaluate_share_no_name_of_what_differs():
    loop = training_scores().keys()
    assert loop <= TRAINING.keys()
    outputs, _ = predictions.example()
    outcomes = with_outlines(decide(outputs, Decision(Triplet(0.5, 0.0, 0.3), 0.3)), 1, 2)
    evaluated = score_values(outcomes, None).keys()
    assert evaluated <= EVALUATED.keys()
    # What depends on neither a threshold nor a size is one number with one name.
    assert loop & evaluated == TRAINING.keys() & EVALUATED.keys() - {"accuracy"} == {"auc", "ap"}
    assert all(name.endswith("network_size") for name in loop - {"auc", "ap", "loss"})
    assert all(len(name.words) <= WIDEST for name in EVALUATED.values())
    words = [name.words for name in EVALUATED.values()]
    assert len(set(words)) == len(words)


def test_the_line_after_an_epoch_says_what_its_dice_is():
    text = _in_words(training_scores())
    assert re.fullmatch(
        r"AUC 0\.\d+  dice at 0\.5, network size: all images 0\.\d+, with a lesion 0\.\d+, "
        r"if nothing is marked 0\.250",
        text,
    ), text
    assert "dice" not in _in_words({"auc": 0.5, "loss": 0.1})
    assert _in_words({"auc": math.nan, "loss": 0.1}) == "loss 0.100  AUC -"  # of one class alone


@pytest.mark.parametrize("name", EARLIER)
def test_a_config_may_name_a_score_as_before(name, tmp_path):
    """A workdir of an earlier version goes on: its config.yaml is no other run's."""
    old, new = (
        Config.model_validate({"model": {"kind": "unet"}, "lake": "a", "train": {"keep_best": one}})
        for one in (name, EARLIER[name])
    )
    assert old == new and old.score == EARLIER[name]
    files.save(new, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(EARLIER[name], name))
    assert files.changed_fields(files.load(tmp_path / "config.yaml", []), new) == {}


def test_keep_best_names_scores_of_training():
    (choices,) = (
        typing.get_args(one)
        for one in typing.get_args(Train.model_fields["keep_best"].annotation)
        if one is not type(None)
    )
    assert set(choices) - {"last"} <= TRAINING.keys() and set(EARLIER.values()) < set(choices)


def test_pages_have_every_name():
    for page, names in (("training.md", TRAINING), ("evaluation.md", EVALUATED)):
        text = (DOCS / page).read_text()
        assert not [name for name in names if f"`{name}`" not in text], page
