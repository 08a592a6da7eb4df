"""Which lake a run is evaluated on, and which of its images: what a run has seen is never scored as
test."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from makers.members import UNET, member

from lake import InputError
from lake.records import index, manifest
from lake.records.identity import identity, title
from trainer.config import files
from trainer.data import damage, order, seen, splits
from trainer.data.seen import Seen
from trainer.evaluation import evaluate, scored_splits
from trainer.evaluation.scores import ScoreOptions
from trainer.inference import decision, kinship
from trainer.inference.ensemble import Ensemble
from trainer.inference.views import Member
from trainer.training.ownership import claim
from trainer.workdir import BEST, LAKE, SEEN, read_json, write_json

NOTHING = np.array([], np.uint64)


def run_on(folder: Path, lake: Path, **sections) -> Member:
    """A run of random weights that has claimed its folder."""
    _, config, network = member("", UNET, 1, **sections)
    config = config.model_copy(update={"lake": str(lake)})
    claim(folder, config, [manifest.load(name) for name in (str(lake), *config.data.more_lakes)])
    files.save(config, folder / "config.yaml")
    network.save_weights(folder / BEST)
    return Member(folder, config, network)


def changed(lake: Path, folder: Path, **fields) -> Path:
    """A copy of a lake whose manifest has other fields."""
    shutil.copytree(lake, folder)
    content = manifest.load(str(lake)) | fields
    (folder / manifest.MANIFEST).write_text(json.dumps(content))
    return folder


def without_a_shard(lake: Path, folder: Path, **fields) -> Path:
    """A copy of a lake that lacks a shard of train: other images, so another lake."""
    first, *others = manifest.load(str(lake))["shards"]
    return changed(lake, folder, shards=[*others, first], **fields)


def external_ultrasound(lake: Path, folder: Path) -> Path:
    """An external lake whose manifest says that its images are of another modality and body part
    than the phantoms."""
    exams = {"modalities": {"DX": 1, "US": 39}, "body_parts": {"HAND": 40}, "secondary_captures": 0}
    counts = manifest.load(str(lake))["counts"] | {"exams": exams}
    return without_a_shard(lake, folder, dataset="clinic", counts=counts)


def open_splits(run: Member, lake: Path | None, is_frozen: bool = False):
    system = Ensemble([run], [])
    in_use = kinship.lake_in_use(system, lake and str(lake))
    return in_use, scored_splits.open_splits(system, in_use, is_frozen)


def ids(lake: Path, *names: str) -> list[str]:
    return index.read(lake, ["image_id"], names)["image_id"].to_pylist()


@pytest.fixture(scope="module")
def run(lake, tmp_path_factory) -> Member:
    return run_on(tmp_path_factory.mktemp("run") / "run", lake)


def test_the_lake_of_the_run_is_its_own_wherever_it_lies(run, lake, tmp_path):
    for place in (None, lake, changed(lake, tmp_path / "moved")):
        in_use, scored = open_splits(run, place)
        assert in_use.is_own and not in_use.notes and not scored.notes
        assert in_use.label(Ensemble([run], [])) == "evaluate"
        assert scored.test.num_records == 8 and scored.validation[0][1].num_records == 8


def test_another_lake_at_the_same_path_is_refused_unless_it_is_named(lake, tmp_path):
    place = changed(lake, tmp_path / "lakes")
    run = run_on(tmp_path / "run", place)
    shutil.rmtree(place)
    without_a_shard(lake, place)  # made again with other options
    names = [title(identity(manifest.load(str(folder)))) for folder in (place, lake)]
    assert names[0] != names[1]
    with pytest.raises(InputError, match="use this one as an external lake") as caught:
        kinship.lake_in_use(Ensemble([run], []), None)
    assert all(name in str(caught.value) for name in (*names, str(place), f"--lake {place}"))
    in_use = kinship.lake_in_use(Ensemble([run], []), str(place))
    assert not in_use.is_own and in_use.label(Ensemble([run], [])) == "evaluate_on_phantoms_1.0.0"
    (note,) = in_use.notes
    assert note.startswith("External lake: ") and all(name in note for name in names)


def test_versions_of_one_lake_know_each_other(run, lake, tmp_path):
    first = identity(manifest.load(str(lake)))
    fields = {"version": "1.1.0", "earlier_lakes": [first]}
    later = without_a_shard(lake, tmp_path / "later", **fields)
    in_use, _ = open_splits(run, later)
    assert in_use.is_own and in_use.notes[0].startswith("A later version of the run's lake: ")
    # A run on the later version, asked about the earlier one.
    in_use, _ = open_splits(run_on(tmp_path / "run", later), lake)
    assert in_use.is_own and in_use.notes[0].startswith("An earlier version of the run's lake: ")
    # A lake of before the field names the folder of the earlier one.
    options = manifest.load(str(lake))["options"]
    fields = {"version": "1.1.0", "options": options | {"splits_from": str(lake)}}
    old = without_a_shard(lake, tmp_path / "old", **fields)
    content = manifest.load(str(old))
    del content["earlier_lakes"]
    (old / manifest.MANIFEST).write_text(json.dumps(content))
    assert open_splits(run, old)[0].is_own
    content["options"]["splits_from"] = str(old)  # another lake lies there now
    (old / manifest.MANIFEST).write_text(json.dumps(content))
    assert not kinship.lake_in_use(Ensemble([run], []), str(old)).is_own


def test_a_run_of_before_is_known_by_its_path_or_its_one_checksum(run, lake, tmp_path):
    other = without_a_shard(lake, tmp_path / "other")
    old = run._replace(workdir=tmp_path / "run")
    old.workdir.mkdir()
    in_use, _ = open_splits(old, None)  # without a lake.json
    assert in_use.is_own and "by its path alone" in in_use.notes[0]
    assert not kinship.lake_in_use(Ensemble([old], []), str(other)).is_own
    content = read_json(run.workdir / LAKE)
    write_json(old.workdir / LAKE, {"shards": content["shards"]})
    assert not open_splits(old, None)[0].notes
    assert not kinship.lake_in_use(Ensemble([old], []), str(other)).is_own


def test_a_further_lake_is_neither_own_nor_external(lake, tmp_path):
    further = without_a_shard(lake, tmp_path / "further")
    run = run_on(tmp_path / "run", lake, data={"more_lakes": {str(further): 1.0}})
    in_use = kinship.lake_in_use(Ensemble([run], []), str(further))
    assert not in_use.is_own and in_use.notes[0].startswith("One of the run's further lakes")


def test_what_a_run_sees_follows_its_splits_folds_and_lakes(lake, tmp_path):
    data = member("", UNET, 1).config.data
    actual = seen.from_lakes(str(lake), data)
    for name, images in (("trained", ids(lake, "train")), ("chosen", ids(lake, "val"))):
        assert set(getattr(actual, name)) == set(seen.hashes(images))
    patients = index.read(lake, ["patient"], ["train"])["patient"].to_pylist()
    assert set(actual.patients) == set(seen.hashes(patients))
    further = data.model_copy(update={"train_split": "test", "more_lakes": {str(lake): 1.0}})
    assert set(seen.from_lakes(str(lake), further).trained) == set(seen.hashes(ids(lake, "test")))
    seen.write(tmp_path / SEEN, actual)
    both = seen.gather(str(lake), further, [tmp_path / "none", tmp_path / SEEN])
    assert set(both.trained) == set(seen.hashes(ids(lake, "train", "test")))
    assert all(map(np.array_equal, seen.read(tmp_path / SEEN), actual))
    (tmp_path / SEEN).write_bytes(b"cut")
    with pytest.raises(InputError, match="cannot be read"):
        seen.read(tmp_path / SEEN)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_images_that_a_run_has_seen_are_left_out_of_the_test(lake, tmp_path, is_frozen):
    run, test, val = run_on(tmp_path / "run", lake), ids(lake, "test"), ids(lake, "val")
    trained, chosen = seen.hashes([*test[:2], *val[:3]]), seen.hashes(test[2:3])
    patients = index.read(lake, ["patient"], ["test"])["patient"].to_pylist()
    seen.write(run.workdir / SEEN, Seen(trained, chosen, seen.hashes(patients[4:5])))
    _, scored = open_splits(run, None, is_frozen)
    assert (scored.test.kinds == order.OUTSIDE).tolist() == [True] * 3 + [False] * 5
    *val_notes, note, patient_note = scored.notes
    assert note.startswith("3 of 8 images of test were left out: a run learnt from 2 of them")
    assert patient_note.startswith(f"{patients[3:].count(patients[4])} images of test are, by the")
    if is_frozen:
        assert not scored.validation and not val_notes
    else:
        assert scored.validation[0][1].num_records == 5
        assert val_notes[0].startswith("3 of 8 images of val were left out")


def test_where_nothing_is_left_it_is_refused(lake, tmp_path):
    run = run_on(tmp_path / "run", lake, data={"train_split": "test"})
    with pytest.raises(InputError, match="no image of test is left .* learnt from 8 of them, all"):
        open_splits(run, None)
    seen.write(run.workdir / SEEN, Seen(seen.hashes(ids(lake, "val")), NOTHING, NOTHING))
    with pytest.raises(InputError, match="a run learnt from all 8 images of val, so no thresholds"):
        open_splits(run, None)
    # A run that is validated on its own images was told to be.
    run = run_on(tmp_path / "same", lake, data={"train_split": "val"})
    _, scored = open_splits(run, None)
    assert scored.notes == ["val is what the run learnt from: its scores are too high."]


def test_another_members_images_count_too_and_a_lost_lake_is_said(run, lake, tmp_path):
    other = without_a_shard(lake, tmp_path / "other")
    second = run_on(tmp_path / "second", other, data={"train_split": "test"})
    system = Ensemble([run, second], [])
    in_use = kinship.lake_in_use(system, str(lake))
    assert in_use.is_own and len(in_use.notes) == 1
    with pytest.raises(InputError, match="no image of test is left"):
        scored_splits.open_splits(system, in_use, is_frozen=True)
    shutil.rmtree(other)  # and the run has no images.npz
    scored = scored_splits.open_splits(system, in_use, is_frozen=True)
    assert scored.test.num_records == 8
    assert scored.notes[0].startswith(f"Which images {second.workdir} learnt from is not known")


def test_records_that_were_edited_are_refused(run, lake, tmp_path):
    copy, data = changed(lake, tmp_path / "copy"), run.config.data
    content = manifest.load(str(copy))
    path = copy / next(shard["name"] for shard in content["shards"] if shard["split"] == "test")
    original = path.read_bytes()
    damage.check_shards(content, str(copy), ["test"], data)
    other = [shard["name"] for shard in content["shards"] if shard["split"] == "val"][0]
    for edited, fault in (
        ((copy / other).read_bytes(), "records|not those that manifest.json lists"),
        (original[:-1], "damaged"),
    ):
        path.write_bytes(edited)
        with pytest.raises(InputError, match=f"{path}: .*({fault}).*; remove this file and repeat"):
            damage.check_shards(content, str(copy), ["test"], data)
        damage.check_shards(content, str(copy), ["val"], data)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        damage.check_shards(content, str(copy), ["test"], data)


def test_an_external_lake_is_scored_with_the_thresholds_of_the_own_one(run, lake, tmp_path):
    external = external_ultrasound(lake, tmp_path / "external")
    entry = {"triplet": {"top": 0.5, "area_share": 0.0, "bottom": 0.5}}
    entry["weights_sha256"] = Ensemble([run], []).weights_sha256()
    write_json(run.workdir / "metrics.json", {"evaluate": entry})
    system = Ensemble([run], [])
    table = evaluate.evaluate(system, str(external), ScoreOptions(replicates=0))
    metrics = read_json(run.workdir / "metrics.json")
    with pytest.raises(
        InputError, match="--choose one_se: .* were chosen with best on the run's own"
    ):
        evaluate.evaluate(system, str(external), ScoreOptions(replicates=0, choose="one_se"))
    assert metrics["evaluate"] == entry  # predict and export keep theirs
    result = metrics["evaluate_on_clinic_1.0.0"]
    assert result["triplet"] == entry["triplet"] and list(result["splits"]) == ["test"]
    facts = result["provenance"]
    assert facts["lake"]["is_external"] and facts["lake"]["path"] == str(external)
    assert facts["lake"]["shards"] == identity(manifest.load(str(external)))["shards"]
    assert facts["thresholds_chosen_on"] == "validation of the run's own lake"
    page = (run.workdir / "report_on_clinic_1.0.0.html").read_text()
    texts = "\n".join(remark["text"] for remark in result["remarks"])
    for text in (" ".join(table.split()), texts, " ".join(html.unescape(page).split())):
        assert (
            f"{external} has images of a kind that the networks in {run.workdir} did not learn "
            f"from: modality US 39 (they: CR 40); body part HAND 40 (they: CHEST 40)." in text
        )
        assert f"External lake: {external}, clinic 1.0.0 (shards " in text
    assert "thresholds chosen on validation of the run's own lake: keep p > 0.5" in table
    assert not {"no_test_split"} & {remark["about"] for remark in result["remarks"]}
    assert splits.named_split(manifest.load(str(external)), str(external), "test").num_records == 8


def test_without_its_own_lake_thresholds_are_those_of_the_named_one(lake, tmp_path):
    home = changed(lake, tmp_path / "home")
    run, external = run_on(tmp_path / "run", home), without_a_shard(lake, tmp_path / "external")
    seen.write(run.workdir / SEEN, Seen(NOTHING, NOTHING, NOTHING))
    shutil.rmtree(home)
    system = Ensemble([run], [])
    with pytest.raises(InputError, match=f"{home}: no lake here"):
        kinship.lake_in_use(system, None)
    table = evaluate.evaluate(system, str(external), ScoreOptions(replicates=0))
    assert "thresholds chosen on val: " in table and "chosen on val of this lake" in table
    label = kinship.lake_in_use(system, str(external)).label(system)
    assert list(read_json(run.workdir / "metrics.json")) == [label]
    assert decision.read_decision(system, label).triplet
    with pytest.raises(InputError, match=f"or say with --lake that those of {label} are meant"):
        decision.read_decision(system)
