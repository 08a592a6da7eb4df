"""A run: its lakes, network, optimizer and steps are put together and given to the loop, stage
after stage."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer import provenance
from trainer.augmentation import augment
from trainer.config import files
from trainer.config.run import Config
from trainer.data import cache, order, splits
from trainer.data.batches import Split, evaluation_batches, training_batches
from trainer.devices import workers
from trainer.devices.strategy import (
    create_strategy,
    distribute,
    peak_memory_bytes,
    policy_name,
    replica_sum,
)
from trainer.display.board import Board
from trainer.models.build import build
from trainer.scoring import objective
from trainer.training import averaging, checkpoint, culprits, interruption, loop, validation
from trainer.training.optimizer import LossScale, Rate, build_optimizer, learning_rate
from trainer.training.step import prepare_batch, steps_in_one_call, training_step
from trainer.workdir import CONFIG, claim, shards_sha256


class Setup(NamedTuple):
    """What a run has before its first step."""

    lakes: list[dict]  # manifests of the run's own and of more_lakes
    split: Split
    val_split: Split
    per_epoch: int  # steps
    strategy: tf.distribute.Strategy
    image_losses: Callable
    network: keras.Model
    worker: workers.Worker


def set_up(run: Config) -> Setup:
    """The lake's splits, the strategy and a fresh network; seeds and precision are set."""
    lakes = splits.open_lakes(run.lake, run.data)
    split = splits.training_split(lakes, run.lake, run.data, run.is_classifier)
    val_split = splits.validation_split(lakes[0], run.lake, run.data)
    splits.check_classes(lakes[0], run.lake, run)
    splits.check_labels(run, split, val_split)
    per_epoch = order.steps_per_epoch(split, run.data)
    worker = workers.from_environment()
    strategy = create_strategy(
        run.train.device,
        run.train.replicas,
        run.data.batch_size,
        run.optimizer.accumulate,
        worker,
        run.train.worker_minutes,
    )
    image_losses = objective.image_losses(
        run, splits.positive_pixel_share(lakes, run.data), replica_sum(strategy)
    )
    keras.utils.set_random_seed(run.train.seed)
    if run.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_dtype_policy(policy_name(run.train.precision, strategy))
    with strategy.scope():
        network = build(run.model, run.data.side)
    return Setup(lakes, split, val_split, per_epoch, strategy, image_losses, network, worker)


def train_stage(run: Config, shared: Path, workdir: Path, watch: interruption.Watch) -> None:
    """One stage; `shared`: the workdir of all workers, `workdir`: where this one writes, the same
    with the chief."""
    setup = set_up(run)
    agreement = workers.Agreement(setup.strategy, setup.worker)
    with setup.strategy.scope():
        moving = moving_parts(run, setup)
        claim(workdir, run, setup.lakes)
        tracked = moving.tracked()
        state = checkpoint.State(workdir, setup.network, agreement, run.train.keep, **tracked)
    step = state.restore(shared)
    if ended := loop.why_ended(run, state, step // setup.per_epoch):
        print(f"{shared}: {ended}")
        return
    board = Board(workdir, step)
    stop = loop.Stop(watch, agreement, state, board)
    stop.if_asked(step, max_hours=None)  # before minutes of tracing
    parts = loop_parts(run, setup, moving, step)
    if not step:
        board.introduce(files.hyperparameters(run), (workdir / CONFIG).read_text())
    provenance.add_start(workdir, setup.lakes, setup.strategy, step)
    _introduce(run, workdir, setup)
    ended = loop.Loop(run, workdir, parts, state, board, stop, setup.per_epoch).train()
    agreement.chief_value(step)  # behind it, the chief has written the weights of the next stage
    print(f"{shared}: {ended}")


class Moving(NamedTuple):
    """What moves in a run beside the network."""

    optimizer: keras.optimizers.Optimizer
    rate: Rate
    averages: averaging.Averages | None
    scale: LossScale | None  # of float16

    def tracked(self) -> dict:
        """By the names of a checkpoint."""
        found = {"optimizer": self.optimizer, "rate_factor": self.rate.factor}
        if self.averages:
            found |= {"shadows": self.averages.shadows, "averaged_epochs": self.averages.epochs}
        if self.scale:
            found |= {"loss_scale": self.scale.value, "good_steps": self.scale.good}
        return found


def moving_parts(run: Config, setup: Setup) -> Moving:
    """Call it in the strategy's scope."""
    rate = learning_rate(run.optimizer, run.train.epochs, setup.per_epoch)
    optimizer = build_optimizer(run.optimizer, rate)
    optimizer.build(setup.network.trainable_variables)
    is_averaged = run.optimizer.ema or run.optimizer.swa_epochs
    averages = averaging.Averages(setup.network, setup.strategy) if is_averaged else None
    scale = None
    if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
        scale = LossScale(run.train.loss_scale, run.train.loss_scale_steps)
    return Moving(optimizer, rate, averages, scale)


def compiled_steps(run: Config, setup: Setup, moving: Moving) -> Callable:
    """steps_in_one_call of the run's own training step."""
    network, strategy, losses = setup.network, setup.strategy, setup.image_losses
    parts = moving.optimizer, run, strategy, losses, moving.averages, moving.scale
    return steps_in_one_call(
        strategy,
        training_step(network, *parts),
        averaging.per_replica_variables(network, moving.averages),
        is_timed=not run.train.deterministic,
    )


def loop_parts(run: Config, setup: Setup, moving: Moving, step: int) -> loop.Parts:
    strategy, network, losses = setup.strategy, setup.network, setup.image_losses
    several_steps = compiled_steps(run, setup, moving)
    order_of_run = run, setup.split, run.train.epochs
    decoded = decoded_images(run, setup.lakes, setup.split)
    batches = batches_of(*order_of_run, step, setup.worker, decoded=decoded)
    iterator = iter(distribute(strategy, batches))

    def blamed(first_step: int, count: int) -> str:
        again = batches_of(*order_of_run, first_step, setup.worker, ("image_id",))
        return culprits.sentence(network, run, losses, again.take(count))

    return loop.Parts(
        several_steps=functools.partial(several_steps, iterator),
        validation=validation.Validation(strategy, network, run, setup.val_split, losses),
        averaged=functools.partial(averages_in_place, run, setup, moving.averages),
        peak_memory_bytes=functools.partial(peak_memory_bytes, strategy),
        blamed=blamed,
        optimizer=moving.optimizer,
        rate=moving.rate,
        scale=moving.scale,
    )


def batches_of(
    run: Config,
    split: Split,
    epochs: int,
    first_step: int,
    worker: workers.Worker = workers.ALONE,
    extra_fields: tuple[str, ...] = (),
    decoded: cache.DecodedImages | None = None,
) -> tf.data.Dataset:
    """A worker's part of the run's batches from a step to the end of an epoch, with draws to
    augment them."""
    numbers = run.train.seed, epochs, first_step, augment.num_draws(run.augment, run.data.side)
    return training_batches(split, run.data, *numbers, worker, extra_fields, decoded)


def decoded_images(run: Config, lakes: list[dict], split: Split) -> cache.DecodedImages | None:
    """What data.cache asks for."""
    if run.data.cache is None:
        return None
    sha256 = shards_sha256(lakes)
    return cache.decode_all(split, run.data, sha256, evaluation_batches)


@contextlib.contextmanager
def averages_in_place(run: Config, setup: Setup, averages, epoch: int):
    """Validation sees the moving average after every epoch, and the mean of the last epochs after
    the last one."""
    if run.optimizer.swa_epochs and epoch > run.train.epochs - run.optimizer.swa_epochs:
        averages.add_epoch()
    is_end = bool(run.optimizer.swa_epochs) and epoch == run.train.epochs
    if not (run.optimizer.ema or is_end):
        yield
        return
    averages.swap()
    if is_end:

        def forward(batch: dict):
            setup.network(prepare_batch(batch, run.augment)[0], training=True)

        epochs, per_epoch = run.train.epochs, setup.per_epoch
        batches = batches_of(run, setup.split, epochs, (epochs - 1) * per_epoch, setup.worker)
        averaging.estimate_statistics(setup.network, setup.strategy, forward, batches)
    yield
    averages.swap()


def _introduce(run: Config, workdir: Path, setup: Setup) -> None:
    known = "labelled" if run.is_classifier else "with_mask"
    further = run.loss.lesion or run.loss.reconstruction or run.loss.kl_divergence
    unlabelled = "teach no mask" if further else "weigh nothing"
    used = []
    for split in (setup.split, setup.val_split):
        records, counts = split.counts["records"], dict(split.counts)
        counts["labelled"] = records - counts["unknown"]
        left_out = records - counts[known]
        said = f", {left_out:,} of them without a label {unlabelled}" if left_out else ""
        used.append(f"{records:,} images to {'train' if not used else 'validate'} on{said}")
    title = run.model.kind
    if run.is_classifier:
        title += f" of {run.model.classes} classes"
    print(
        f"{title} with {setup.network.count_params():,} parameters at {run.data.side} px, "
        f"{keras.mixed_precision.dtype_policy().name}; {'; '.join(used)}; "
        f"{setup.per_epoch} steps of {run.data.batch_size} an epoch\n"
        f"curves: tensorboard --logdir {workdir}",
        flush=True,
    )
