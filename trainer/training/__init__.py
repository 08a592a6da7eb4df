"""A run from its first step to its last: stages, loop, step, optimizer, checkpoints, validation.
In: a Config and a workdir. Out: weights, curves and scores; trainer.task train asks."""
