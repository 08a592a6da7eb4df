"""What ends a run before its last epoch: SIGTERM, the first Ctrl-C, or train.max_hours. Its exit
code is then 42: neither finished (0) nor failed.

TensorFlow's PreemptionCheckpointHandler, which uses the same code, does not fit this loop: it is
made for MultiWorkerMirroredStrategy and TPUStrategy, counts its own calls where a call here is N
steps, restores by itself when it is made (no way back from a damaged checkpoint, and no look at
whose it is), and would save after the last call of an epoch, whose validation a resumed run then
skips. One process needs only a flag that is read between two calls.
"""

import signal
import sys
import time

from lake import signals

EXIT_CODE = signals.GOES_ON


class Interrupted(Exception):
    """Raised when the run is saved; its message says that the same command goes on with it."""


class Watch:
    """Says why to stop: a signal that came while there were steps to save, or the time.

    As long as a start has taken no step, a signal ends the process at once (lake/signals.py):
    compiling can take minutes, and the newest checkpoint is all that there is.
    """

    def __init__(self):
        self.signal_name, self.start_time = None, time.monotonic()

    def wait_for_saving(self) -> None:
        """Let the first signal from now on be noted, and a second one end the process."""
        signals.set_repeat("the same command goes on from the newest checkpoint")
        signals.take_by(self._note)

    def end_at_once(self, step: int) -> None:
        """Let the first signal from now on end the process; `step`: that of the newest
        checkpoint."""
        place = f"step {step:,}" if step else "the beginning"
        signals.set_repeat(f"the same command goes on from {place}")
        signals.take_by(None)

    def _note(self, number: int) -> None:
        if self.signal_name:
            signals.end(number)
        self.signal_name = signal.Signals(number).name
        message = f"{self.signal_name}: stopping after these steps; a second one ends at once"
        print(message, file=sys.stderr, flush=True)

    def reason(self, max_hours: float | None) -> str | None:
        """Return why to stop now; None: go on. `max_hours` counts from the start of the command."""
        if self.signal_name:
            return self.signal_name
        if max_hours and time.monotonic() - self.start_time >= 3600 * max_hours:
            return f"train.max_hours={max_hours:g}"
        return None
