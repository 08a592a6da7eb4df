"""The optimizer and its learning rate by step."""

import keras

from trainer import config


class ReducedAdamW(keras.optimizers.AdamW):
    """AdamW for gradients that the caller has reduced over the replicas: Keras would clip first and
    reduce later."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


def build_optimizer(
    settings: config.Optimizer, epochs: int, per_epoch: int
) -> keras.optimizers.Optimizer:
    """AdamW with clipping by the global norm; linear warm-up, then a cosine; no decay of biases and
    norms."""
    optimizer = ReducedAdamW(
        learning_rate(settings, epochs, per_epoch),
        weight_decay=settings.weight_decay,
        global_clipnorm=settings.clip_norm,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(settings: config.Optimizer, epochs: int, per_epoch: int):
    """Schedule by step: from 0 to the full rate over warmup_epochs, then half a cosine to
    final_share of it."""
    warmup = round(min(settings.warmup_epochs, epochs / 2) * per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else settings.learning_rate,
        decay_steps=max(1, epochs * per_epoch - warmup),
        alpha=settings.final_share,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
