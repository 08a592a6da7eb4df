"""The garbage collector while a pipeline starts."""

import gc

import pytest

from beam import predict
from beam.prediction import pipeline
from beam.running import startup
from lake import Stopped


@pytest.fixture(autouse=True)
def collector_as_before():
    yield
    gc.enable()


@pytest.mark.parametrize("frozen", [0, 5])
def test_the_collector_rests_in_the_block_and_what_lasts_is_put_aside_once(monkeypatch, frozen):
    frozen_calls = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    monkeypatch.setattr(gc, "freeze", lambda: frozen_calls.append(gc.isenabled()))
    with pytest.raises(ValueError), startup.lasting_objects():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled() and frozen_calls == [False] * (frozen == 0)


def test_a_collector_that_somebody_turned_off_stays_off():
    gc.disable()
    with startup.lasting_objects():
        pass
    assert not gc.isenabled()


def test_the_pipeline_of_a_prediction_is_built_while_the_collector_rests(
    exported, tmp_path, monkeypatch
):
    def build(*_):
        raise Stopped("the collector works" if gc.isenabled() else "it rests")

    monkeypatch.setattr(pipeline, "build", build)
    (tmp_path / "a.dcm").write_bytes(b"not read")
    words = [f"--model={exported}", f"--images={tmp_path}/a.dcm", f"--output={tmp_path}/out"]
    with pytest.raises(Stopped, match="it rests"):
        predict.run([*words, "--runner=DirectRunner"])
    assert gc.isenabled()
