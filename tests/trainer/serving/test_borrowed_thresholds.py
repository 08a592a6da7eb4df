"""export --lake: whose thresholds an export takes where none were chosen on the run's own lake."""

import json
import shutil
from pathlib import Path

import pytest
from makers.trained import exit_code

from trainer.inference import ensemble
from trainer.serving import export
from trainer.workdir import LAKE, METRICS, read_json, write_json

pytestmark = pytest.mark.slow  # a graph takes seconds to make
OTHER = "evaluate_on_clinic_2.0.0"


@pytest.fixture(scope="module")
def clinic(lake, tmp_path_factory) -> Path:
    """What export reads of another lake: its manifest."""
    content = json.loads((lake / "manifest.json").read_text())
    first, *others = content["shards"]
    folder = tmp_path_factory.mktemp("lakes") / "clinic" / "2.0.0"
    folder.mkdir(parents=True)
    changes = {"dataset": "clinic", "version": "2.0.0", "shards": [*others, first]}
    write_json(folder / "manifest.json", content | changes)
    return folder


@pytest.fixture
def run(systems, tmp_path) -> Path:
    """A run whose thresholds were chosen on the other lake alone; CLAHE, which no graph has, saves
    the signatures that take files."""
    workdir = tmp_path / "run"
    shutil.copytree(systems["deep"][1], workdir)
    content = read_json(workdir / LAKE)
    content["options"]["clahe"] = True
    write_json(workdir / LAKE, content)
    entry = read_json(workdir / METRICS)["evaluate"]
    write_json(workdir / METRICS, {OTHER: entry})
    return workdir


def call(run: Path, *options: object) -> int:
    return exit_code("export", "--workdir", run, "--output", run.with_name("out"), *options)


def test_thresholds_of_another_lake_are_taken_where_it_is_named(run, clinic, capsys):
    assert call(run) == 2
    assert f"or say with --lake that those of {OTHER} are meant" in capsys.readouterr().err
    assert call(run, "--lake", clinic) == 0
    content = read_json(run.with_name("out") / "export.json")
    entry = read_json(run / METRICS)[OTHER]
    assert content["evaluated_as"] == OTHER
    assert content["decision"]["triplet"] == entry["triplet"]
    assert str(entry["triplet"]["bottom"])[:5] in capsys.readouterr().out
    assert content["lake"] == read_json(run / LAKE)  # what the run learnt from


def test_thresholds_of_the_run_s_own_lake_come_first(run, clinic):
    entries = read_json(run / METRICS)
    home_entry = entries[OTHER] | {"triplet": {"top": 0.25, "area_share": 0.0, "bottom": 0.25}}
    write_json(run / METRICS, entries | {"evaluate": home_entry})
    network = ensemble.load([run])
    assert export.check(network, OTHER) == export.check(network)
    assert export.check(network, OTHER).triplet.bottom == 0.25


def test_what_cannot_be_meant_is_one_message(run, lake, clinic, capsys):
    unevaluated = clinic.with_name("3.0.0")
    shutil.copytree(clinic, unevaluated)
    content = read_json(unevaluated / "manifest.json")
    write_json(unevaluated / "manifest.json", content | {"version": "3.0.0"})
    for options, message in (
        (["--lake", unevaluated], "no evaluate and no evaluate_on_clinic_3.0.0, so no thresholds"),
        (["--lake", lake], "no evaluate, so no thresholds were chosen"),  # the run's own
        (["--lake", clinic.parent], "no manifest.json"),
        (["--lake", clinic, "--level=all"], "thresholds of the runs' own lake, not of --lake"),
    ):
        assert call(run, *options) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    entries = read_json(run / METRICS)
    weights = {name: ["0" * 64] for name in entries[OTHER]["weights_sha256"]}
    write_json(run / METRICS, {OTHER: entries[OTHER] | {"weights_sha256": weights}})
    assert call(run, "--lake", clinic) == 2
    assert f"the thresholds of {OTHER} were chosen for other weights" in capsys.readouterr().err
    assert not run.with_name("out").exists()
