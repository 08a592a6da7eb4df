"""Where a run stands, saved and restored: checkpoints to resume from and the best epochs' weights.

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

from lake import InputError, disk, storage
from lake.terminal import console
from trainer.devices.workers import Agreement
from trainer.workdir import BEST, CHECKPOINTS, CONFIG, FURTHER, check_weights, checkpoint_steps

# What TensorFlow raises for a checkpoint that is cut off, changed or partly gone (tried at every
# place of both files); an AssertionError where the damage hides the list of its objects.
UNREADABLE = (tf.errors.OpError, IndexError, AssertionError)


class State:
    """The network, the optimizer and how far a run has come, saved and restored together."""

    def __init__(
        self, workdir: Path, network: keras.Model, agreement: Agreement, keep: int = 1, **objects
    ):
        """`workdir`: where this worker writes; `keep`: the number of best epochs whose weights are
        kept; `objects`: what else changes in a run, such as the optimizer, by its name in the
        checkpoint. Names are a format: under another one, old runs could not be resumed."""
        self.workdir, self.network, self.agreement = workdir, network, agreement
        self.step = 0  # steps that the run has taken
        self.sums = EpochSums()  # over the steps of an epoch that is not complete
        self.save_time = time.monotonic()
        self.saved_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        # The highest score first; -inf and epoch 0 where there were fewer epochs so far.
        self.best_scores = tf.Variable([-math.inf] * keep, dtype=tf.float64, trainable=False)
        self.best_epochs = tf.Variable([0] * keep, dtype=tf.int64, trainable=False)
        self.stale_epochs = tf.Variable(0, dtype=tf.int64, trainable=False)  # since the best one
        # Where dropout's random numbers stand: Keras hides it from tf.train.Checkpoint.
        weights = {id(weight) for weight in network.weights}
        seeds = [v.value for v in network.variables if id(v) not in weights]
        self.checkpoint = tf.train.Checkpoint(
            network=network,
            seeds=seeds,
            best_scores=self.best_scores,
            best_epochs=self.best_epochs,
            sums=self.sums,
            stale_epochs=self.stale_epochs,
            step=self.saved_step,
            **objects,
        )
        self.manager = self._manager()

    # --- saving ---

    def save(self) -> None:
        """Write a checkpoint; then remove weights of epochs that are not among the best any more.

        Not earlier: until then a restart from the checkpoint before may need them.
        """
        self.saved_step.assign(self.step)
        self.manager.save(checkpoint_number=self.step)
        self.save_time = time.monotonic()
        kept_files = {self.workdir / entry["weights"] for entry in self.kept_epochs()}
        for path in (self.workdir / FURTHER).glob("*.weights.h5"):
            if path not in kept_files:
                path.unlink()

    @property
    def is_saved(self) -> bool:
        return self.step == int(self.saved_step.numpy())

    def is_due(self, minutes: float) -> bool:
        """Return whether so many minutes have passed since the last save, on any of the workers."""
        return self.agreement.any(time.monotonic() - self.save_time > 60 * minutes)

    def _manager(self) -> tf.train.CheckpointManager:
        folder = self.workdir / CHECKPOINTS
        storage.make_folder(folder)
        path = storage.without_pattern(str(folder))
        return tf.train.CheckpointManager(self.checkpoint, path, max_to_keep=2)

    def _restore(self, path: Path) -> None:
        """Restore a checkpoint, or raise one of UNREADABLE."""
        plain_path = f"{storage.without_pattern(str(path.parent))}/{path.name}"
        self.checkpoint.restore(plain_path).assert_consumed()

    # --- restoring ---

    def restore(self, workdir: Path) -> None:
        """Restore the newest readable checkpoint on all workers: the one that the chief could read.

        `workdir`: of the run, which all workers share. The step stays 0 where there is none. Raises
        InputError where all are damaged, or the workers do not share the workdir.
        """
        worker = self.agreement.worker
        self.step = self.agreement.chief_value(self._restore_newest() if worker.is_chief else 0)
        if worker.is_chief:
            return
        if not (workdir / CONFIG).exists():  # the chief has claimed the workdir by now
            raise InputError(
                f"worker {worker.number} sees no {workdir / CONFIG}, which worker 0 has written; "
                f"give a --workdir that all {worker.count} workers share"
            )
        if self.step:
            self._restore(workdir / CHECKPOINTS / f"ckpt-{self.step}")

    def _restore_newest(self) -> int:
        """Restore the newest checkpoint that can be read; return its step, 0 where there is none.

        Unreadable ones are reported and moved to checkpoints/damaged. Raises InputError where all
        of them are.
        """
        steps, folder = checkpoint_steps(self.workdir), self.workdir / CHECKPOINTS
        for position, step in enumerate(steps):
            path = folder / f"ckpt-{step}"
            try:
                self._restore(path)
            except UNREADABLE as error:
                reason = str(error).strip().partition("\n")[0]
                print(f"{path} is damaged, going back to the one before: {reason}")
                continue
            newest_path = self.manager.latest_checkpoint or ""
            if position or Path(newest_path).name != path.name:
                self._list_checkpoints(steps[position:], damaged_steps=steps[:position])
            self._check_weights()
            console.note(f"resuming at step {step:,} from {path}")
            return step
        if steps:
            raise InputError(
                f"{folder}: expected a readable checkpoint, but all {len(steps)} are damaged; put "
                f"back a copy, or start again in a new --workdir"
            )
        return 0

    def _list_checkpoints(self, steps: list[int], damaged_steps: list[int]) -> None:
        """Write TensorFlow's list of the checkpoints anew, and move the damaged ones away."""
        folder = self.workdir / CHECKPOINTS
        for step in damaged_steps:
            storage.make_folder(folder / "damaged")
            for path in folder.glob(f"ckpt-{step}.*"):
                path.replace(folder / "damaged" / path.name)
        plain_folder = storage.without_pattern(str(folder))
        paths = [f"{plain_folder}/ckpt-{step}" for step in reversed(steps)]
        tf.compat.v1.train.update_checkpoint_state(plain_folder, paths[-1], paths)
        self.manager = self._manager()

    def _check_weights(self) -> None:
        """Raise InputError where the best epoch's weights are gone or damaged; leave out others.

        A worse epoch's file may have made way for an epoch that only a damaged checkpoint knew;
        that epoch will be trained and scored again.
        """
        scores, epochs = self.best_scores.numpy(), self.best_epochs.numpy()
        if math.isfinite(scores[0]):
            check_weights(self.workdir / BEST)
        entries = self.kept_epochs()
        rows = [rank for rank, entry in enumerate(entries) if self._has_weights(rank, entry)]
        if len(rows) < len(entries):
            num_missing = len(scores) - len(rows)
            self.best_scores.assign([*scores[rows], *[-math.inf] * num_missing])
            self.best_epochs.assign([*epochs[rows], *[0] * num_missing])

    def _has_weights(self, rank: int, entry: dict) -> bool:
        """Return whether the weights of one of the best epochs are in their file, and print it if
        not; raise InputError where they are damaged, or are the best and gone."""
        path = self.workdir / entry["weights"]
        if rank == 0 or path.exists():
            check_weights(path)
            return True
        print(f"{path} is gone: epoch {entry['epoch']} is not among the best ones kept any more")
        return False

    # --- the best epochs ---

    def keep_if_best(self, score: float, epoch: int) -> bool:
        """Write the weights of an epoch that is among the best so far; return whether it is the
        best. Raises InputError for a score that is not a number."""
        if not math.isfinite(score):
            raise InputError(
                "the validation score is not a number; is a lesion left in the validation split "
                "at this data.side?"
            )
        scores, epochs = self.best_scores.numpy(), self.best_epochs.numpy()
        rank = int((scores >= score).sum())  # behind those that are as good
        is_best = rank == 0
        self.stale_epochs.assign(0 if is_best else self.stale_epochs + 1)
        if rank < len(scores):
            self.best_scores.assign(np.insert(scores, rank, score)[:-1])
            self.best_epochs.assign(np.insert(epochs, rank, epoch)[:-1])
            path = self.weights_path(epoch)
            storage.make_folder(path.parent)
            if not storage.is_remote(path):  # h5py closes a file for which there is no room aloud
                disk.check_room(path.parent, sum(w.nbytes for w in self.network.get_weights()))
            with storage.whole_file(path) as unfinished_path:
                self.network.save_weights(unfinished_path)
            if is_best and path.name != BEST:
                storage.write(self.workdir / BEST, path.read_bytes())
        return is_best

    def kept_epochs(self) -> list[dict]:
        """Return the best epochs, the best one first, with their scores and weight files."""
        pairs = zip(self.best_epochs.numpy(), self.best_scores.numpy(), strict=True)
        return [
            {
                "epoch": int(epoch),
                "value": float(score),
                "weights": str(self.weights_path(epoch).relative_to(self.workdir)),
            }
            for epoch, score in pairs
            if epoch
        ]

    def weights_path(self, epoch: int) -> Path:
        """Return the file for the weights of one of the best epochs."""
        if self.best_epochs.shape[0] == 1:
            return self.workdir / BEST
        return self.workdir / FURTHER / f"epoch_{epoch:04d}.weights.h5"


class EpochSums(tf.train.experimental.PythonState):
    """{name: number or array}, float64; in a checkpoint as JSON, which keeps every bit of them."""

    def __init__(self):
        self.values = {}

    def add(self, sums: dict) -> None:
        for name, value in sums.items():
            self.values[name] = self.values.get(name, 0) + np.asarray(value, np.float64)

    def take(self) -> dict:
        """Return the sums of a complete epoch; the next epoch starts without any."""
        values, self.values = self.values, {}
        return values

    def serialize(self) -> str:
        return json.dumps({name: value.tolist() for name, value in self.values.items()})

    def deserialize(self, text: bytes) -> None:
        self.values = {name: np.array(value) for name, value in json.loads(text).items()}
