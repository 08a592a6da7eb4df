"""One process at a time in a folder: on disks with locks, with locks of one machine, without any,
and as on gs://; a dead process keeps nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lake import InputError, lock
from lake.terminal import console

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from lake import lock
lock.FIRST_BEAT_SECONDS, lock.BEAT_SECONDS = 0.1, 0.2
with lock.hold(Path(sys.argv[1]), "run.lock", "trains", "go"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path):
    return lock.hold(folder, "run.lock", "trains", "give another --workdir")


@pytest.fixture
def holder(tmp_path):
    """Yield another process that holds the lock of tmp_path/run."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def quick(monkeypatch):
    """Make signs of life come often, and silence short."""
    for name, seconds in (("FIRST_BEAT", 0.05), ("BEAT", 0.05), ("SILENT", 0.6), ("RETRY", 0.2)):
        monkeypatch.setattr(lock, f"{name}_SECONDS", seconds)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)


def test_a_second_process_is_refused_and_a_killed_one_keeps_nothing(holder, tmp_path):
    path = tmp_path / "run" / "run.lock"
    pattern = f"run: process {holder.pid} on .* trains here; wait .*or give another --workdir"
    with pytest.raises(InputError, match=pattern), hold(tmp_path / "run"):
        pass
    assert path.exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path / "run"):
        assert f'"pid": {os.getpid()}' in path.read_text()
    assert not path.exists()


def test_a_refused_start_leaves_the_folder_as_it_was(tmp_path):
    with pytest.raises(InputError), hold(tmp_path / "a" / "b"):
        raise InputError("another run's")
    assert not [*tmp_path.iterdir()]
    folder = tmp_path / "run"
    folder.mkdir()
    left = lock._text(lock._this_process(), 3)  # by a process that was killed
    (folder / "run.lock").write_bytes(left)
    with pytest.raises(InputError), hold(folder):
        raise InputError("another run's")
    assert (folder / "run.lock").read_bytes() == left
    with hold(folder):
        (folder / "config.yaml").write_text("")
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def write_as_another_machine(path: Path, beats: int) -> None:
    owner = lock._this_process()._replace(host="node07", boot="another", start="theirs")
    path.write_bytes(lock._text(owner, beats))


def test_another_machine_that_gives_a_sign_of_life_is_heard(quick, tmp_path, capsys):
    path, is_over = tmp_path / "run.lock", threading.Event()
    write_as_another_machine(path, 0)

    def beat() -> None:
        number = 0
        while not is_over.wait(0.1):
            write_as_another_machine(path, number := number + 1)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="on node07 .* trains here"), hold(tmp_path):
            pass
    finally:
        is_over.set()
        thread.join()
    assert "on node07" in capsys.readouterr().out
    with hold(tmp_path):  # it is silent now
        pass
    assert not path.exists()


def test_a_quiet_command_waits_without_a_word(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "_volume", console.QUIET)
    write_as_another_machine(tmp_path / "run.lock", 0)
    with hold(tmp_path):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_lock_of_yesterday_is_nobody_s(tmp_path, capsys):
    path = tmp_path / "run.lock"
    write_as_another_machine(path, 0)
    os.utime(path, (0, time.time() - 86400))
    with hold(tmp_path):
        pass
    assert "listening" not in capsys.readouterr().out


def test_a_disk_without_locks_has_signs_of_life(quick, holder, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 30)
    with pytest.raises(InputError, match=f"process {holder.pid}"), hold(tmp_path / "run"):
        time.sleep(60)


def test_who_has_lost_the_lock_ends(holder, tmp_path):
    write_as_another_machine(tmp_path / "run" / "run.lock", 0)
    assert holder.wait(timeout=60) == 2
    message = f"error: {tmp_path / 'run'}: another process trains here; this one has ended\n"
    assert holder.stderr.read() == message


@pytest.fixture
def objects(quick, monkeypatch):
    """Take locks as on gs://."""
    monkeypatch.setattr(lock, "_take_file", lock._take_object)


def test_of_objects_one_is_held_and_a_dead_one_is_removed(objects, tmp_path):
    with hold(tmp_path):
        with pytest.raises(InputError, match=f"process {os.getpid()}"), hold(tmp_path):
            pass
        [path] = tmp_path.iterdir()
        assert path.name.startswith("run.lock.")
    assert not [*tmp_path.iterdir()]
    write_as_another_machine(tmp_path / "run.lock.theirs", 0)
    with hold(tmp_path):
        assert not (tmp_path / "run.lock.theirs").exists()


def test_a_signal_gives_up_an_object_although_signs_of_life_follow(tmp_path):
    """What would otherwise keep others out for SILENT_SECONDS."""
    code = (
        "from lake import signals\nsignals.arm(goes_on=True)\n"
        "from lake import lock\nlock._take_file = lock._take_object\n"
        + HOLDER.replace("0.1, 0.2", "0.001, 0.001")
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        assert [path.name[:9] for path in tmp_path.iterdir()] == ["run.lock."]
        process.send_signal(signal.SIGTERM)
        error = process.communicate()[1]
    assert (process.returncode, error) == (42, "SIGTERM: stopped; the same command goes on\n")
    assert not [*tmp_path.iterdir()]


def test_of_those_that_come_at_once_one_holds_the_objects(objects, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENT_SECONDS", 30)
    outcomes, barrier, is_over = [], threading.Barrier(4), threading.Event()

    def start() -> None:
        barrier.wait()
        try:
            with hold(tmp_path):
                outcomes.append("held")
                is_over.wait(60)
        except InputError:
            outcomes.append("refused")
        if len(outcomes) == 4:
            is_over.set()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused", "refused", "refused"]


def test_a_change_of_what_was_read_waits_for_another(tmp_path):
    numbers = []

    def add(number: int) -> None:
        with lock.briefly(tmp_path):
            numbers.append(number)
            time.sleep(0.05)
            numbers.append(number)

    threads = [threading.Thread(target=add, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers[::2] == numbers[1::2]
