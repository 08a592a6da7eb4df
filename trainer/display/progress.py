"""The terminal's line: where the run is, how fast, how long still."""

import sys
import time

from trainer.config.run import Config

SHOWN = (
    "auc",
    "accuracy",
    "dice_mean",
    "dice_positives",
    "dice_all_empty",
    "loss",
)  # TensorBoard has all
LINE_SECONDS = 10.0  # between lines where they cannot be rewritten


class Progress:
    """Prints the line while an epoch runs and a summary after it."""

    def __init__(self, per_epoch: int, run: Config, step: int):
        self.per_epoch, self.run = per_epoch, run
        self.started, self.first_step, self.shown = time.monotonic(), step, 0.0
        self.last = (self.started, step)
        self.images_per_second = 0.0
        self.step = step

    def show(self, step: int, sums: dict) -> None:
        now = time.monotonic()
        self.images_per_second = (
            (step - self.last[1]) * self.run.data.batch_size / (now - self.last[0])
        )
        self.last, self.step = (now, step), step
        is_terminal = sys.stdout.isatty()
        if not is_terminal and now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        left = (
            (self.per_epoch * self.run.train.epochs - step)
            * (now - self.started)
            / (step - self.first_step)
        )
        steps = max(sums["steps"], 1)  # in float16 all may have been skipped
        text = (
            f"epoch {(step - 1) // self.per_epoch + 1}/{self.run.train.epochs}  "
            f"step {(step - 1) % self.per_epoch + 1}/{self.per_epoch}  "
            f"loss {sums['loss'] / steps:.4f}  {self.images_per_second:.1f} images/s  "
            f"ETA {_duration(left)}"
        )
        print(text.ljust(90), end="\r" if is_terminal else "\n", flush=True)

    def rates(self, optimizer) -> dict[str, float]:
        return {
            "learning_rate": float(optimizer.learning_rate),
            "images_per_second": self.images_per_second,
        }

    def epoch(self, epoch: int, curves: dict, is_best: bool) -> None:
        parts = [f"epoch {epoch}/{self.run.train.epochs}"]
        for curve, values in curves.items():
            parts.append(
                f"{curve}: " + "  ".join(f"{n} {values[n]:.3f}" for n in SHOWN if n in values)
            )
        passed = _duration(time.monotonic() - self.started)
        mark = "kept" if self.run.score == "last" else "best"
        print("  |  ".join([*parts, passed]) + (f"  ({mark})" if is_best else ""), flush=True)
        self.last = (time.monotonic(), self.step)  # validation does not count as training time


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
