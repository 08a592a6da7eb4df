"""What a run keeps in its workdir: config.yaml, checkpoints to resume from, the best weights,
metrics.json.

The weights of the best epoch are best.weights.h5. Where more are kept (train.keep), each of those
epochs has a file best/epoch_0012.weights.h5, too.
"""

import json
import math
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from lake import InputError, storage
from trainer.devices.workers import Agreement, Worker
from trainer.workdir import BEST, CHECKPOINTS, CONFIG, FURTHER, check_weights, checkpoint_steps

# What TensorFlow raises for a checkpoint that is cut off, changed or partly gone (tried at every
# place of both files); an AssertionError where the damage hides the list of its objects.
UNREADABLE = (tf.errors.OpError, IndexError, AssertionError)


class State:
    """Network, optimizer and progress of a run, saved and restored together."""

    def __init__(
        self, workdir: Path, network: keras.Model, agreement: Agreement, keep: int = 1, **tracked
    ):
        """`workdir`: where this worker writes; `keep`: so many of the best epochs' weights;
        `tracked`: what else moves in a run, such as the optimizer, by name."""
        self.workdir, self.network, self.saved_at = workdir, network, time.monotonic()
        self.agreement = agreement
        # The highest first; -inf and 0 where there are no more epochs yet.
        self.best_scores = tf.Variable([-math.inf] * keep, dtype=tf.float64, trainable=False)
        self.best_epochs = tf.Variable([0] * keep, dtype=tf.int64, trainable=False)
        self.sums = EpochSums()
        self.stale_epochs = tf.Variable(0, dtype=tf.int64, trainable=False)  # since the best one
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        weights = {id(weight) for weight in network.weights}
        # Where dropout's random numbers stand: Keras hides it from tf.train.Checkpoint.
        seeds = [v.value for v in network.variables if id(v) not in weights]
        self.checkpoint = tf.train.Checkpoint(
            network=network,
            seeds=seeds,
            best_scores=self.best_scores,
            best_epochs=self.best_epochs,
            sums=self.sums,
            stale_epochs=self.stale_epochs,
            step=self.step,
            **tracked,
        )
        self.manager = self._manager()

    def _manager(self) -> tf.train.CheckpointManager:
        folder = str(self.workdir / CHECKPOINTS)
        return tf.train.CheckpointManager(self.checkpoint, folder, max_to_keep=2)

    def restore(self, workdir: Path) -> int:
        """The step that the chief restored from the workdir, as all workers now have."""
        chief = self.agreement.worker.is_chief
        step = self.agreement.chief_value(self._restore_newest() if chief else 0)
        if not chief:
            _check_shared(workdir, self.agreement.worker)
        if step and not chief:
            self.checkpoint.restore(str(workdir / CHECKPOINTS / f"ckpt-{step}")).assert_consumed()
        return step

    def _restore_newest(self) -> int:
        """The step of the newest checkpoint that can be read, now restored; 0 where there is none.
        Unreadable ones are said and put into checkpoints/damaged; InputError where all are."""
        steps, folder = checkpoint_steps(self.workdir), self.workdir / CHECKPOINTS
        for place, step in enumerate(steps):
            path = folder / f"ckpt-{step}"
            try:
                self.checkpoint.restore(str(path)).assert_consumed()
            except UNREADABLE as error:
                print(f"{path} is damaged, going back to the one before: {_first_line(error)}")
                continue
            if place or self.manager.latest_checkpoint != str(path):
                self._start_list_at(steps[place:], damaged=steps[:place])
            self._check_kept()
            print(f"resuming at step {step:,} from {path}")
            return step
        if steps:
            raise InputError(
                f"{folder}: expected a readable checkpoint, but all {len(steps)} are damaged; put "
                f"back a copy, or start again in a new --workdir"
            )
        return 0

    def _start_list_at(self, steps: list[int], damaged: list[int]) -> None:
        folder = self.workdir / CHECKPOINTS
        for step in damaged:
            storage.make_folder(folder / "damaged")
            for path in folder.glob(f"ckpt-{step}.*"):
                path.replace(folder / "damaged" / path.name)
        paths = [str(folder / f"ckpt-{step}") for step in reversed(steps)]
        tf.compat.v1.train.update_checkpoint_state(str(folder), paths[-1], paths)
        self.manager = self._manager()

    def save(self, step: int) -> None:
        self.step.assign(step)
        self.manager.save(checkpoint_number=step)
        self.saved_at = time.monotonic()
        self._remove_others()

    def is_due(self, minutes: float) -> bool:
        return self.agreement.any(time.monotonic() - self.saved_at > 60 * minutes)

    def keep_if_best(self, score: float, epoch: int) -> bool:
        """Writes the weights of an epoch that is among the best so far; whether it is the best."""
        if not math.isfinite(score):
            raise InputError(
                "the validation score is not a number; is a lesion left in the validation split "
                "at this data.side?"
            )
        scores, epochs = self.best_scores.numpy(), self.best_epochs.numpy()
        place = int((scores >= score).sum())  # behind those that are as good
        is_best = place == 0
        self.stale_epochs.assign(0 if is_best else self.stale_epochs + 1)
        if place < len(scores):
            self.best_scores.assign(np.insert(scores, place, score)[:-1])
            self.best_epochs.assign(np.insert(epochs, place, epoch)[:-1])
            self._write_weights(self.weights_of(epoch), is_best)
        return is_best

    def _write_weights(self, path: Path, is_best: bool) -> None:
        storage.make_folder(path.parent)
        with storage.written(path) as unfinished:
            self.network.save_weights(unfinished)
        if is_best and path.name != BEST:
            storage.write(self.workdir / BEST, path.read_bytes())

    def weights_of(self, epoch: int) -> Path:
        """The file of one of the best epochs."""
        if self.best_epochs.shape[0] == 1:
            return self.workdir / BEST
        return self.workdir / FURTHER / f"epoch_{epoch:04d}.weights.h5"

    def kept(self) -> list[dict]:
        """The best epochs, the best one first, with their files."""
        pairs = zip(self.best_epochs.numpy(), self.best_scores.numpy(), strict=True)
        return [
            {
                "epoch": int(epoch),
                "value": float(score),
                "weights": str(self.weights_of(epoch).relative_to(self.workdir)),
            }
            for epoch, score in pairs
            if epoch
        ]

    def _check_kept(self) -> None:
        """The best epoch's weights must be there. Worse ones may have made way for an epoch that
        only a checkpoint knew which is damaged now; that epoch comes again."""
        is_expected = math.isfinite(self.best_scores.numpy()[0])
        check_weights(self.workdir / BEST, is_expected)
        kept = [number for number, one in enumerate(self.kept()) if self._is_there(number, one)]
        if len(kept) < len(self.kept()):
            scores, epochs = self.best_scores.numpy(), self.best_epochs.numpy()
            missing = len(scores) - len(kept)
            self.best_scores.assign([*scores[kept], *[-math.inf] * missing])
            self.best_epochs.assign([*epochs[kept], *[0] * missing])

    def _is_there(self, number: int, one: dict) -> bool:
        path = self.workdir / one["weights"]
        if number == 0 or path.exists():
            check_weights(path, is_expected=True)
            return True
        print(f"{path} is gone: epoch {one['epoch']} is not among the best ones kept any more")
        return False

    def _remove_others(self) -> None:
        """Weights of epochs that are not among the best any more; of the newest checkpoint, so that
        no restart misses one."""
        kept = {self.workdir / one["weights"] for one in self.kept()}
        for path in (self.workdir / FURTHER).glob("*.weights.h5"):
            if path not in kept:
                path.unlink()


def _check_shared(workdir: Path, worker: Worker) -> None:
    """Behind the chief's claim."""
    if not (workdir / CONFIG).exists():
        raise InputError(
            f"worker {worker.number} sees no {workdir / CONFIG}, which worker 0 has written; "
            f"give a --workdir that all {worker.count} workers share"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class EpochSums(tf.train.experimental.PythonState):
    """{name: number or array}, float64; in a checkpoint as JSON, which keeps every bit of them."""

    def __init__(self):
        self.values = {}

    def add(self, sums: dict) -> None:
        for name, value in sums.items():
            self.values[name] = self.values.get(name, 0) + np.asarray(value, np.float64)

    def take(self) -> dict:
        """Those of a whole epoch; the next one starts without."""
        values, self.values = self.values, {}
        return values

    def serialize(self) -> str:
        return json.dumps({name: value.tolist() for name, value in self.values.items()})

    def deserialize(self, text: bytes) -> None:
        self.values = {name: np.array(value) for name, value in json.loads(text).items()}
