"""Lines on the console while a run trains: position, speed, time that remains, scores."""

import math
import sys
import time

from lake.terminal.progress import Line, duration
from trainer.config.run import Config
from trainer.config.score_names import DICE_WORDS, HALF_NETWORK, TRAINING

# Scores in the line after an epoch; TensorBoard has all.
SCORES = ("loss", "auc", "accuracy")
DICES = (
    *(f"dice_mean{HALF_NETWORK}", f"dice_positives{HALF_NETWORK}"),
    "dice_all_empty_network_size",
)


class Progress:
    """Prints a line while an epoch runs and a summary after it."""

    def __init__(self, steps_per_epoch: int, config: Config, step: int):
        self.steps_per_epoch, self.config = steps_per_epoch, config
        self.start_time, self.first_step = time.monotonic(), step
        self.last_time, self.last_step = self.start_time, step
        self.line = Line(sys.stdout)
        self.images_per_second = 0.0

    def show(self, step: int, sums: dict) -> None:
        """Show how far the run is, if a line is due; `sums`: those of the epoch so far."""
        now = time.monotonic()
        num_images = (step - self.last_step) * self.config.data.batch_size
        self.images_per_second = num_images / (now - self.last_time)
        self.last_time, self.last_step = now, step
        steps_left = self.steps_per_epoch * self.config.train.epochs - step
        seconds_left = steps_left * (now - self.start_time) / (step - self.first_step)
        num_steps = max(sums["steps"], 1)  # in float16 all may have been skipped
        text = (
            f"epoch {(step - 1) // self.steps_per_epoch + 1}/{self.config.train.epochs}  "
            f"step {(step - 1) % self.steps_per_epoch + 1}/{self.steps_per_epoch}  "
            f"loss {sums['loss'] / num_steps:.4f}  {self.images_per_second:.1f} images/s  "
            f"ETA {duration(seconds_left)}"
        )
        self.line.show(text)

    def rates(self, optimizer) -> dict[str, float]:
        """Return the learning rate and the images per second, for TensorBoard."""
        return {
            "learning_rate": float(optimizer.learning_rate),
            "images_per_second": self.images_per_second,
        }

    def epoch(self, epoch: int, curves: dict, is_best: bool) -> None:
        """Print an epoch's scores, {curve: {score: value}}."""
        parts = [f"epoch {epoch}/{self.config.train.epochs}"]
        for curve, values in curves.items():
            parts.append(f"{curve}: {_in_words(values)}")
        parts.append(duration(time.monotonic() - self.start_time))
        mark = "kept" if self.config.score == "last" else "best"
        self.line.show("  |  ".join(parts) + (f"  ({mark})" if is_best else ""), is_last=True)
        self.last_time = time.monotonic()  # validation does not count as training time


def _in_words(scores: dict[str, float]) -> str:
    """Return an epoch's scores in words; what dice is of stands once, before its values."""
    names = [name for name in SCORES if name in scores]
    parts = [_in_digits(name, scores) for name in names]
    dices = [_in_digits(name, scores) for name in DICES if name in scores]
    if dices:
        parts.append(f"{DICE_WORDS}: {', '.join(dices)}")
    return "  ".join(parts)


def _in_digits(name: str, scores: dict[str, float]) -> str:
    """Return a score and its value, a dash where it has none."""
    value = "-" if math.isnan(scores[name]) else f"{scores[name]:.3f}"
    return f"{TRAINING[name].words} {value}"
