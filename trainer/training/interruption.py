"""What ends a run before its last epoch: SIGTERM, the first Ctrl-C, or train.max_hours. Its exit
code is then 42: neither finished (0) nor failed.

TensorFlow's PreemptionCheckpointHandler, which uses the same code, does not fit this loop: it is
made for MultiWorkerMirroredStrategy and TPUStrategy, counts its own calls where a call here is N
steps, restores by itself when it is made (no way back from a damaged checkpoint, and no look at
whose it is), and would save after the last call of an epoch, whose validation a resumed run then
skips. One process needs only a flag that is read between two calls.
"""

import signal
import time

EXIT_CODE = 42


class Interrupted(Exception):
    """Raised when the run is saved; its message says that the same command goes on with it."""


class Watch:
    """Notes the first SIGTERM or SIGINT inside its block; a second one ends the process at once."""

    SIGNALS = signal.SIGTERM, signal.SIGINT

    def __init__(self):
        self.signal_name, self.start_time = None, time.monotonic()

    def __enter__(self) -> "Watch":
        # An ignored signal stays ignored: Ctrl-C is not meant for a job in the background.
        handlers = {n: signal.getsignal(n) for n in self.SIGNALS}
        self.previous_handlers = {n: h for n, h in handlers.items() if h != signal.SIG_IGN}
        for signal_number in self.previous_handlers:
            signal.signal(signal_number, self._note)
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _restore(self) -> None:
        for signal_number, handler in self.previous_handlers.items():
            signal.signal(signal_number, handler)

    def _note(self, signal_number: int, _) -> None:
        self.signal_name = signal.Signals(signal_number).name
        self._restore()

    def reason(self, max_hours: float | None) -> str | None:
        """Return why to stop now; None: go on. `max_hours` counts from the start of the command."""
        if self.signal_name:
            return self.signal_name
        if max_hours and time.monotonic() - self.start_time >= 3600 * max_hours:
            return f"train.max_hours={max_hours:g}"
        return None
