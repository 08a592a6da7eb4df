"""An encoder that stays as it is in the first epochs (optimizer.frozen_epochs), while the decoder
learns to use it, and then learns with it.

In: a run. Out: its compiled steps, which are compiled anew once, when the encoder is unfrozen.
"""

from collections.abc import Callable

import keras

from trainer.config.run import Config
from trainer.training.run import Run
from trainer.training.step import compile_steps


def compile_phases(run: Run, iterator) -> Callable:
    """Return (number of steps, all within one epoch) -> sums over them, as step.compile_steps has
    them. Which phase a step is in follows from the run's step alone, so a run that goes on is in
    the right one."""
    layers = encoder_layers(run.config, run.network)
    compiled: dict[bool, Callable] = {}

    def take_steps(count) -> dict:
        """Take steps with the encoder frozen or not, as the run's epoch says."""
        is_frozen = run.epoch < run.config.optimizer.frozen_epochs
        if is_frozen not in compiled:
            # A frozen layer has no gradient, no weight decay, and its batch norm uses and keeps its
            # statistics. What a step does was decided when it was traced, hence the new one.
            for layer in layers:
                layer.trainable = not is_frozen
            compiled.clear()
            compiled[is_frozen] = compile_steps(run)
        return compiled[is_frozen](iterator, count)

    return take_steps


def encoder_layers(config: Config, network: keras.Model) -> list[keras.Layer]:
    """Return the layers of the encoder that learn after all: model.freeze keeps others for good;
    none where no epoch is frozen."""
    if not config.optimizer.frozen_epochs:
        return []
    return [layer for layer in network.get_layer(config.model.encoder).layers if layer.trainable]
