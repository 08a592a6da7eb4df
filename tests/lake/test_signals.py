"""What SIGINT and SIGTERM do to a command: the line, the exit code, and what is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# Nothing heavy is imported, so each process takes a tenth of a second. SIGINT may be ignored where
# the tests run in the background, and a child inherits that.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from lake import signals
signals.arm(goes_on=sys.argv[1:] == ["goes on"])
"""


def interrupted(code: str, *numbers: int, word: str = "") -> tuple[int, str, str]:
    """Return (exit code, stdout, stderr) of a process that is sent these signals when it has
    printed `ready`, each next one when it has printed another line."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + code, word],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for number in numbers:
        lines.append(process.stdout.readline())
        process.send_signal(number)
    output, error = process.communicate(timeout=60)
    return process.returncode, "".join(lines) + output, error


LONG_CALLS = (
    "time.sleep(60)",
    "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",  # Python runs no handler meanwhile
    "re.match('(a|a)*$', 40 * 'a' + 'b')",  # and here no other thread
)


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("call", LONG_CALLS)
def test_a_signal_ends_a_process_wherever_it_is_with_one_line(number, call):
    code = f"""
import hashlib, os, re, time
print("not yet written")
os.write(1, b"ready" + b"\\n")
{call}
"""
    result = interrupted(code, number)
    line = f"{number.name}: stopped; nothing was written; run it again\n"
    assert result == (CODES[number], "ready\nnot yet written\n", line)


def test_nothing_can_swallow_a_signal_or_print_after_it():
    code = """
import threading, time
threading.Thread(target=lambda: [print("thread", file=sys.stderr) for _ in iter(int, 1)],
                 daemon=True).start()
signals.set_repeat("it goes on")
while True:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException:
        pass
"""
    code, _, error = interrupted(code, signal.SIGINT)
    *others, last = error.splitlines()
    assert code == 130 and last.endswith("SIGINT: stopped; it goes on")
    assert {line.replace("thread", "") for line in others} <= {""}


def test_children_and_temporary_folders_end_with_it_but_no_session_of_its_own(tmp_path):
    code = f"""
import os, subprocess, time
words = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.Popen(words)
null = subprocess.DEVNULL
other = subprocess.Popen(words, start_new_session=True, stdout=null, stderr=null)
folder = {str(tmp_path)!r} + "/temporary"
os.makedirs(folder + "/inside")
with signals.removing(folder):
    print(other.pid, flush=True)
    time.sleep(60)
"""
    code, output, _ = interrupted(code, signal.SIGTERM)  # waits for who holds its pipes: the child
    os.kill(int(output), signal.SIGKILL)
    assert code == 143 and not list(tmp_path.iterdir())


def test_a_signal_leaves_no_file_that_is_half_written(tmp_path):
    code = f"""
import time
from pathlib import Path
from lake import storage
with storage.whole_file(Path({str(tmp_path / "table.csv")!r})) as path:
    path.write_text("half")
    print(path.exists(), flush=True)
    time.sleep(60)
"""
    assert interrupted(code, signal.SIGTERM)[:2] == (143, "True\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("call", ["print('called', flush=True)", "1 / 0", "time.sleep(60)"])
def test_what_a_signal_calls_keeps_the_process_for_a_moment_at_most(call, tmp_path):
    code = f"""
import time
signals.CALL_SECONDS = 0.5
def call():
    open({str(tmp_path / "called")!r}, "w")
    {call}
with signals.calling(call):
    print("ready", flush=True)
    time.sleep(60)
"""
    code, output, error = interrupted(code, signal.SIGINT)
    assert (code, output) == (130, "ready\n") and error.startswith("SIGINT: stopped; ")
    assert (tmp_path / "called").exists() and error.count("\n") == 1


@pytest.mark.parametrize("number", CODES)
def test_what_has_to_be_ended_in_order_is(number):
    code = """
import time
from lake.terminal import cli

def work():
    with signals.raising():
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("ended in order")

sys.exit(cli.exit_code(work))
"""
    line = f"{number.name}: stopped; nothing was written; run it again\n"
    assert interrupted(code, number) == (CODES[number], "ready\nended in order\n", line)


def test_a_second_signal_ends_what_takes_too_long_to_end_in_order():
    code = """
import time
with signals.raising():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(60)
"""
    code, output, error = interrupted(code, signal.SIGINT, signal.SIGTERM)
    assert (code, output) == (143, "ready\nending\n") and error.startswith("SIGTERM: stopped; ")


@pytest.mark.parametrize("number", CODES)
def test_a_command_that_is_done_ends_with_its_own_code(number):
    """Also while Python ends, when handlers are gone."""
    code = """
import time
from lake.terminal import cli

class Slow:
    def __del__(self):
        print("at the end", flush=True)
        time.sleep(0.2)

slow = Slow()
code = cli.exit_code(lambda: "all is done")
sys.stdout.flush()
time.sleep(0.2)
sys.exit(code)
"""
    assert interrupted(code, number, number) == (0, "all is done\nat the end\n", "")


def test_an_ignored_signal_stays_ignored():
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signals._install(signals._leave_to_the_thread, signals._COMMAND.wakeup)
print("ready", flush=True)
sys.stdin.readline()
"""
    words = [sys.executable, "-c", START + code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=ROOT, **pipes) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate("\n", timeout=60)
    assert process.returncode == 0


def test_a_run_ends_at_once_before_its_first_step_and_is_saved_after_it():
    code = """
import time
from trainer.training.interruption import Watch
watch = Watch()
watch.end_at_once(1200)
print("ready", flush=True)
time.sleep(60)
"""
    line = "SIGTERM: stopped; the same command goes on from step 1,200\n"
    assert interrupted(code, signal.SIGTERM, word="goes on") == (42, "ready\n", line)
    code = code.replace("print(", "watch.wait_for_saving()\nprint(").replace(
        "time.sleep(60)",
        "while not watch.reason(None): time.sleep(0.01)\nprint(watch.reason(None))",
    )
    code, output, error = interrupted(code, signal.SIGINT)
    assert (code, output) == (0, "ready\nSIGINT\n")
    assert error == "SIGINT: stopping after these steps; a second one ends at once\n"


def test_a_second_signal_ends_a_run_that_is_being_saved():
    code = """
import time
from trainer.training.interruption import Watch
watch = Watch()
watch.wait_for_saving()
print("ready", flush=True)
while not watch.reason(None): time.sleep(0.01)
print("saving", flush=True)
time.sleep(60)
"""
    code, output, error = interrupted(code, signal.SIGINT, signal.SIGINT, word="goes on")
    assert (code, output) == (42, "ready\nsaving\n")
    last = "SIGINT: stopped; the same command goes on from the newest checkpoint"
    assert error.splitlines()[1:] == [last]


# Each of these modules is a command of its own.
ENTRIES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("beam", "lake", "launch", "radlake", "trainer")
    for path in (ROOT / package).rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)


@pytest.mark.parametrize("file", ENTRIES)
def test_every_command_takes_signals_before_it_imports_anything_heavy(file):
    text = (ROOT / file).read_text()
    lines = map(str.strip, text[: text.index("signals.arm(")].splitlines())
    imports = {line for line in lines if line.startswith(("import ", "from "))}
    assert imports <= {"import sys", "from lake import signals"}
