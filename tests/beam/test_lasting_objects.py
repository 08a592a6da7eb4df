"""The garbage collector while a pipeline starts."""

import gc

import pytest

from beam.running import startup


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
