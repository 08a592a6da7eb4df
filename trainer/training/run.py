"""All that a run consists of, built from its Config: lakes, strategy, network, optimizer."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from lake import storage
from lake.records.identity import shards_sha256
from trainer.augmentation import augment
from trainer.config import required
from trainer.config.run import Config
from trainer.data import cache, damage, order, seen, splits
from trainer.data.batches import Split, evaluation_batches, training_batches
from trainer.devices import workers
from trainer.devices.strategy import create_strategy, policy_name, prepare_memory, replica_sum
from trainer.display.board import Board
from trainer.display.tracker import Tracker
from trainer.models.build import build
from trainer.scoring import objective
from trainer.training.averaging import Averages
from trainer.training.checkpoint import State
from trainer.training.optimizer import LossScale, Rate, build_optimizer, learning_rate
from trainer.workdir import SEEN, checkpoint_steps


class Run(NamedTuple):
    """What a run consists of, in the order in which it is built."""

    config: Config
    # --- data ---
    lakes: list[dict]  # manifests: of the run's own lake, then of data.more_lakes
    split: Split
    val_split: Split
    steps_per_epoch: int
    # --- devices ---
    worker: workers.Worker
    strategy: tf.distribute.Strategy
    # --- what learns ---
    image_losses: Callable  # (masks, outputs, batch) -> losses [B]
    network: keras.Model
    optimizer: keras.optimizers.Optimizer
    rate: Rate
    averages: Averages | None  # EMA or SWA
    scale: LossScale | None  # of float16; without it, a step that is not finite ends the run
    # --- workdir: None where nothing is saved, as in find_lr and benchmark ---
    state: State | None = None
    board: Board | None = None
    tracker: Tracker | None = None  # without train.tracker, and of workers but the chief

    @property
    def epoch(self) -> int:
        """The number of epochs that are complete."""
        return self.state.step // self.steps_per_epoch


def build_run(config: Config, is_resumed: bool = False, folder: Path | None = None) -> Run:
    """Return a run before its first step, its network freshly initialised; set seeds and precision.
    `is_resumed`: an earlier start has compared the bytes of the lakes; `folder`: the workdir that
    all workers were given.

    Raises InputError where lakes and config do not go together, or devices are missing.
    """
    data, train = config.data, config.train
    lakes = splits.open_lakes(config.lake, data)
    damage.check_local_shards(lakes[0], config.lake, splits.names_in_use(data), data, is_resumed)
    for folder, lake in zip(data.more_lakes, lakes[1:], strict=True):
        damage.check_local_shards(lake, folder, [data.train_split], data, is_resumed)
    required.check_classes(lakes[0], config.lake, config)
    is_classifier, findings = config.is_classifier, config.findings
    split = splits.training_split(lakes, config.lake, data, is_classifier, findings)
    val_split = splits.validation_split(lakes[0], config.lake, data, findings)
    splits.check_labels(config, split, val_split)
    steps_per_epoch = order.steps_per_epoch(split, data)
    worker = workers.from_environment()
    strategy = create_strategy(
        train.device,
        train.replicas,
        data.batch_size,
        config.optimizer.accumulate,
        worker,
        train.worker_minutes,
    )
    workers.check_is_one_run(strategy, worker, f"{config.model_dump_json()} {folder}")
    prepare_memory(config.feature_bytes, strategy)
    positive_share = splits.positive_pixel_share(lakes, data)
    losses = objective.image_losses(config, positive_share, replica_sum(strategy))
    learner = build_learner(config, strategy, steps_per_epoch)
    return Run(config, lakes, split, val_split, steps_per_epoch, worker, strategy, losses, *learner)


def build_learner(config: Config, strategy: tf.distribute.Strategy, steps_per_epoch: int) -> tuple:
    """Return (network, optimizer, rate, averages, scale) of a Run; set seeds and precision."""
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_dtype_policy(policy_name(config.train.precision, strategy))
    averages, scale = None, None
    with strategy.scope():
        network = build(config.model, config.data.side)
        rate = learning_rate(config.optimizer, config.train.epochs, steps_per_epoch)
        optimizer = build_optimizer(config.optimizer, rate)
        optimizer.build(network.trainable_variables)
        pace_encoder(optimizer, config, network, steps_per_epoch)
        if config.optimizer.ema or config.optimizer.swa_epochs:
            averages = Averages(network, strategy)
        if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
            scale = LossScale(config.train.loss_scale, config.train.loss_scale_steps)
    return network, optimizer, rate, averages, scale


def pace_encoder(
    optimizer: keras.optimizers.Optimizer, config: Config, network: keras.Model, per_epoch: int
) -> None:
    """Tell a built optimizer which weights are the encoder's, where these have a rate of their own
    or are frozen at first; `per_epoch`: steps."""
    share, frozen_epochs = config.optimizer.encoder_rate, config.optimizer.frozen_epochs
    if share != 1 or frozen_epochs:
        weights = network.get_layer(config.model.encoder).trainable_variables
        optimizer.pace(weights, share, frozen_epochs * per_epoch)


def checkpoint_objects(run: Run) -> dict:
    """Return the objects that a checkpoint holds beside network and State, by their names there."""
    objects = {"optimizer": run.optimizer, "rate_factor": run.rate.factor}
    if run.averages:
        objects |= {"shadows": run.averages.shadows, "averaged_epochs": run.averages.epochs}
    if run.scale:
        objects |= {"loss_scale": run.scale.value, "good_steps": run.scale.good_steps}
    return objects


def write_seen(config: Config, workdir: Path) -> None:
    """Write which images the run sees, once: an earlier start did it with the same lakes. Before
    the first checkpoint a start may begin from other weights, which have seen other images."""
    if (workdir / SEEN).exists() and checkpoint_steps(workdir):
        return
    earlier_files = []
    if (weights := config.model.weights) is not None:
        # They lie in the workdir of another run, or there in the folder of its best epochs.
        folder = storage.path_of(weights).parent
        earlier_files = [folder / SEEN, folder.parent / SEEN]
    seen.write(workdir / SEEN, seen.gather(config.lake, config.data, earlier_files))


def batches_from(
    run: Run,
    first_step: int,
    epochs: int | None = None,
    extra_fields: tuple[str, ...] = (),
    images: cache.DecodedImages | None = None,
) -> tf.data.Dataset:
    """Return this worker's part of the run's batches, with draws to augment them, from a step to
    the end of the last epoch; `epochs`: another number of them; `images`: of cached_images."""
    config = run.config
    return training_batches(
        run.split,
        config.data,
        config.train.seed,
        epochs or config.train.epochs,
        first_step,
        augment.num_draws(config.augment, config.data.side),
        run.worker,
        extra_fields,
        images,
    )


def cached_images(run: Run) -> cache.DecodedImages | None:
    """Return the training split's images as data.cache keeps them; None without a cache."""
    data = run.config.data
    if data.cache is None:
        return None
    return cache.decode_all(run.split, data, shards_sha256(run.lakes), evaluation_batches)
