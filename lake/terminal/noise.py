"""Lines of libraries that tell a user nothing, kept from the terminal unless --verbose is given.

Only lines that are listed here are left out; whatever else a library says gets through. What Python
logs is filtered where it is logged. What C++ writes to descriptor 2 goes through a process that
copies it: a thread would be gone when the process aborts, and its last line with it.
"""

import logging
import os
import re
import select
import signal
import sys

# (logger, start of a record's message). Beam says these where its cloud extra is not installed.
RECORDS = (
    ("", "apitools not found, and bigquery client libraries are not available"),
    ("", "Resource module is not available for current platform"),
)
# TensorFlow, absl and gRPC before they read their settings: where a line was written, then its
# message. 303: there is no NVIDIA driver; any other number is an error that a user should read.
PLACE = r"(?:[IWE]\d{4} [\d:.]+ +\d+ \S+:\d+\] |\d{4}-\d\d-\d\d [\d:.]+: [IWE] \S+:\d+\] )"
MESSAGES = (
    r"oneDNN custom operations are on\. .*",
    r"This TensorFlow binary is optimized to use available CPU instructions .*",
    r"To enable the following instructions: .*, in other operations, rebuild TensorFlow .*",
    r"Could not find cuda drivers on your machine, GPU will not be used\.",
    r"Unable to register cu(?:FFT|DNN|BLAS) factory: .* already been registered",
    r"computation placer already registered\. .*",
    r"failed call to cuInit: .*UNKNOWN ERROR \(303\)",
)
LINES = (
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    rf"{PLACE}(?:{'|'.join(MESSAGES)})",
)
# After a command has succeeded: other workers of a run end at slightly other times, and the
# collective of those that are still there calls it a crash.
ENDED = b"\0the command has succeeded\n"
LAST_LINES = (
    rf"{PLACE}BaseCollectiveExecutor::StartAbort \w+: .*",
    r"/job:worker/replica:\d+/task:\d+",
    r"The tasks have crashed\. Check the task logs for an earlier error, .*",
)
PATIENCE_SECONDS = 0.2  # for the rest of a line
BYTES = 65536  # of one read


def quieten_loggers() -> None:
    """Leave out the records that are listed, for the rest of the process."""
    for name, start in RECORDS:
        logger = logging.getLogger(name)
        if not any(getattr(one, "start", None) == start for one in logger.filters):
            logger.addFilter(_Without(start))


class _Without(logging.Filter):
    """Leaves out the records whose message has this start."""

    def __init__(self, start: str):
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.start)


def filter_descriptor() -> None:
    """Let a process leave out LINES from what is written to descriptor 2 from now on. Python's own
    sys.stderr goes past it."""
    if os.getpid() == 1:  # a container ends with its first process, and would lose the last lines
        return
    sys.stderr.flush()
    reader, writer = os.pipe()
    terminal = os.dup(2)
    if os.fork() == 0:
        os.close(writer)
        _be_the_filter(reader, terminal)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = sys.__stderr__ = os.fdopen(
        terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
    )


def end_well() -> None:
    """Say that the command has succeeded, to the process that filters descriptor 2 if there is
    one."""
    if sys.__stderr__ is not None and sys.__stderr__.fileno() != 2:
        os.write(2, ENDED)


def _be_the_filter(reader: int, terminal: int) -> None:
    """Copy until nobody writes any more, and end the process. Signals, which a terminal sends to
    all processes of its session, are for the command alone."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # whoever reads the command's output need not wait for this
            os.dup2(null, descriptor)
        copy(reader, terminal)
    finally:
        os._exit(0)


def copy(reader: int, terminal: int) -> None:
    """Copy a pipe to a descriptor until its end, without the lines that are listed."""
    patterns, rest = [re.compile(text.encode()) for text in LINES], b""
    while True:
        if rest and not select.select([reader], [], [], PATIENCE_SECONDS)[0]:
            _write(terminal, rest)  # somebody asks or shows progress, and waits
            rest = b""
        content = os.read(reader, BYTES)
        *lines, rest = (rest + content).split(b"\n")
        lines = [line + b"\n" for line in lines] + ([rest] if not content else [])
        for line in lines:
            if line == ENDED:
                patterns += [re.compile(text.encode()) for text in LAST_LINES]
            elif not any(pattern.fullmatch(line.strip(b"\r\n")) for pattern in patterns):
                _write(terminal, line)
        if not content:
            return


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
