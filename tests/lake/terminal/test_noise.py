"""Which lines of libraries a user does not see, and that every other one gets through."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lake.terminal import noise

ROOT = Path(__file__).parents[3]
FIRST = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
GLOG = "I0000 00:00:1764490000.123456    4242 port.cc:153] "
OLD = "2026-11-30 10:00:00.123456: E external/local_xla/xla/stream_executor/cuda.cc:477] "
ONE_DNN = "oneDNN custom operations are on. You may see slightly different numerical results"
# What must be read: another CUDA error, a line about oneDNN that TensorFlow did not write, a crash
# of the collective while the command works.
OTHERS = [
    f"{GLOG}failed call to cuInit: INTERNAL: CUDA error: no CUDA-capable device (100)",
    f"{GLOG}Allocation of 99 exceeds 10% of free system memory.",
    "F0000 00:00:1764490000.123456 4242 cpu_feature_guard.cc:1] compiled to use AVX instructions",
    ONE_DNN,
    f"{GLOG}BaseCollectiveExecutor::StartAbort UNAVAILABLE: Error reported from /job:worker/task:1",
    "/job:worker/replica:0/task:1",
    "The tasks have crashed. Check the task logs for an earlier error, or scheduler events",
    "Traceback (most recent call last):",
    "",
]
LISTED = [
    FIRST,
    GLOG + ONE_DNN,
    f"{GLOG}Could not find cuda drivers on your machine, GPU will not be used.",
    f"{OLD}failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)",
]


def copied(content: bytes, tmp_path: Path) -> list[str]:
    """Return the lines that the filter lets through."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    path = tmp_path / "lines"
    with path.open("wb") as file:
        noise.copy(reader, file.fileno())
    os.close(reader)
    return path.read_text().split("\n")


def test_listed_lines_are_left_out_and_all_others_get_through(tmp_path):
    lines = [line for pair in zip(OTHERS, [*LISTED, *LISTED, FIRST], strict=True) for line in pair]
    assert copied("\n".join([*lines, "a last one"]).encode(), tmp_path) == [*OTHERS, "a last one"]


def test_the_collectives_end_is_left_out_after_success_alone(tmp_path):
    crash = "".join(f"{line}\n" for line in OTHERS[4:7]).encode()
    assert copied(crash + noise.ENDED + crash + b"else\n", tmp_path) == [*OTHERS[4:7], "else", ""]


@pytest.mark.parametrize("end", ["os.abort()", "os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_the_last_line_of_a_process_that_dies_gets_through(end):
    code = (
        "import os, sys\nfrom lake.terminal import noise\nnoise.filter_descriptor()\n"
        f"os.write(2, {(LISTED[0] + chr(10)).encode()!r} + b'why it dies\\n')\n"
        f"print('ours', file=sys.stderr)\n{end}"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode != 0
    assert sorted(process.stderr.splitlines()) == ["ours", "why it dies"]


def test_records_of_beam_are_left_out_by_their_texts_alone(caplog):
    noise.quieten_loggers()
    texts = [start for _, start in noise.RECORDS]
    for text in (*texts, "apitools is something else"):
        logging.warning(f"{text} …")
    assert [record.getMessage() for record in caplog.records] == ["apitools is something else …"]
    noise.quieten_loggers()
    assert len(logging.getLogger().filters) == len(noise.RECORDS)
