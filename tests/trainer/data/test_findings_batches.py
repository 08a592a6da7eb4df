"""Batches of a lake whose images have several findings each: by their names, whatever their order
in lake and config."""

import numpy as np
import pytest
from makers import finding_lakes as maker
from makers.marks import exhaustive

from lake import InputError
from lake.records import manifest
from trainer.config.run import Config, Data
from trainer.data import cache, order, splits
from trainer.data.batches import evaluation_batches, training_batches

NAMES = ("Hernia", "Effusion", "Mass/Nodule")  # another order than the lake's, and one fewer
SETTINGS = {"side": 16, "batch_size": 4}


def split_of(lake, names=NAMES, **fields) -> tuple[order.Split, Data]:
    data = Data(**SETTINGS | fields)
    content = manifest.load(str(lake))
    return splits.training_split([content], str(lake), data, True, names), data


def truth_by_id(lake, names=NAMES) -> dict[bytes, list[int]]:
    """Return the findings of each image of train as the lake stores them."""
    places = [maker.NAMES.index(name) for name in names]
    records = maker.records_of(lake, "train")
    return {fields["image_id"]: [fields["findings"][p] for p in places] for fields in records}


def test_a_batch_has_the_findings_that_the_network_learns(lake_of_findings):
    split, data = split_of(lake_of_findings)
    truth, ids = truth_by_id(lake_of_findings), []
    assert len({tuple(values) for values in truth.values()}) > 4
    batches = training_batches(split, data, 0, 1, 0, 4, extra_fields=("image_id",))
    for batch in batches.as_numpy_iterator():
        assert batch["findings"].dtype == np.float32
        for image_id, values in zip(batch["image_id"], batch["findings"], strict=True):
            assert values.tolist() == truth[image_id]
            ids.append(image_id)
    assert sorted(ids) == sorted(truth)
    plain, _ = split_of(lake_of_findings, names=())
    assert "findings" not in next(evaluation_batches(plain, data).as_numpy_iterator())


def test_the_counts_are_those_of_the_records(lake_of_findings):
    split, _ = split_of(lake_of_findings)
    columns = np.array(list(truth_by_id(lake_of_findings).values())).T
    expected = [[int((column == state).sum()) for state in (1, 0, -1)] for column in columns]
    assert split.counts["findings"] == expected and expected[0][0] == 0


@pytest.mark.parametrize("place", ["memory", pytest.param("folder", marks=exhaustive)])
def test_a_cache_keeps_the_findings_and_no_others_take_it(lake_of_findings, place, tmp_path):
    where = "memory" if place == "memory" else str(tmp_path / "cache")
    for names in (NAMES, NAMES[::-1], ("Mass/Nodule",)):
        split, data = split_of(lake_of_findings, names, cache=where)
        images = cache.decode_all(split, data, "0" * 64, evaluation_batches)
        pair = (training_batches(split, data, 0, 1, 0, 4, images=one) for one in (None, images))
        for one, other in zip(*(part.as_numpy_iterator() for part in pair), strict=True):
            assert all((one[name] == other[name]).all() for name in one)
            assert one.keys() == other.keys() and one["findings"].shape == (4, len(names))


def test_a_share_of_positives_is_of_images_with_one_of_these_findings(lake_of_findings):
    for names in (("Effusion",), ("Mass/Nodule", "Hernia")):
        split, _ = split_of(lake_of_findings, names, positive_share=(0.5, 0.5))
        truth = truth_by_id(lake_of_findings, names)
        is_positive = [
            1 in truth[one["image_id"]] for one in maker.records_of(lake_of_findings, "train")
        ]
        assert (split.kinds == order.POSITIVE).tolist() == is_positive
        assert 0 < sum(is_positive) < len(is_positive)
    with pytest.raises(InputError, match="0 of the 24 images to train on have one of the findings"):
        split_of(lake_of_findings, ("Hernia",), positive_share=(0.5, 0.5))


def test_further_lakes_have_the_same_findings_in_the_same_order(lake_of_findings, lake, tmp_path):
    other = tmp_path / "other" / "1.0.0"
    other.mkdir(parents=True)
    maker.write(lake, other, maker.NAMES[::-1])
    for folder, text in ((other, "Hernia, Pleural, Other"), (lake, "the findings none")):
        data = Data(**SETTINGS, more_lakes={str(folder): 0.5})
        lakes = splits.open_lakes(str(lake_of_findings), data)
        with pytest.raises(InputError, match=text):
            splits.training_split(lakes, str(lake_of_findings), data, True, NAMES)
    data = Data(**SETTINGS, more_lakes={str(lake_of_findings): 0.5})
    lakes = splits.open_lakes(str(lake_of_findings), data)
    split = splits.training_split(lakes, str(lake_of_findings), data, True, NAMES)
    single, _ = split_of(lake_of_findings)
    doubled = (2 * np.array(single.counts["findings"])).tolist()
    assert split.findings == single.findings and split.counts["findings"] == doubled


def test_a_split_in_which_no_finding_differs_is_refused_and_others_are_said(
    lake_of_findings, capsys
):
    model = {"kind": "classifier", "encoder": "plain"}
    content = manifest.load(str(lake_of_findings))
    for names in (("Hernia",), ("Hernia", "Effusion")):
        raw = {"model": model | {"findings": names}, "lake": str(lake_of_findings)}
        config = Config.model_validate(raw)
        parts = [splits.named_split(content, config.lake, n, names) for n in ("train", "val")]
        if len(names) == 1:
            with pytest.raises(InputError, match="split 'train' has no finding of which some"):
                splits.check_labels(config, *parts)
        else:
            splits.check_labels(config, *parts)
    assert "train: all images whose Hernia is known are alike in it" in capsys.readouterr().out
