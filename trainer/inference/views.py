"""Test-time augmentation: an image is shown to a network in several views, whose predictions are
averaged; so are those of the members of an ensemble.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops

from lake import InputError
from trainer.config.run import Config
from trainer.models import blocks, weight_files
from trainer.models.build import build
from trainer.scoring import objective

SIDE_STEP = 16  # px; the side of a scaled view is a multiple of it, as config's data.side is
SMALLEST = 1e-37  # a p whose log is finite: float32 is normal from 1.2e-38 on


class Member(NamedTuple):
    """A trained network and where it comes from."""

    workdir: Path
    config: Config
    network: keras.Model


class View(NamedTuple):
    """One way to show an image to the network."""

    scale: float = 1.0  # of the network's side
    is_mirrored: bool = False


def parse_tta(tta: Sequence[str]) -> list[View]:
    """Return the views of --tta: `none`, or `flip` and scales such as 0.8 and 1.25, which stand
    beside the image itself; raise InputError for other words."""
    scales = [1.0]
    for name in tta:
        if name in ("none", "flip"):
            continue
        try:
            scales.append(float(name))
        except ValueError:
            scales.append(0.0)  # is refused below, as a number out of range is
        if not 0.25 <= scales[-1] <= 4 or scales[-1] in scales[:-1]:
            raise InputError(
                f"--tta={name}: expected none, flip, or scales from 0.25 to 4, each once and not 1"
            )
    if "none" in tta and len(tta) > 1:
        raise InputError(f"--tta {' '.join(tta)}: none goes alone")
    mirrorings = (False, True) if "flip" in tta else (False,)
    return [View(scale, is_mirrored) for scale in scales for is_mirrored in mirrorings]


def forward(member: Member, view: View, has_head: bool) -> Callable:
    """Return a function: images [B, S, S, 1] -> [logits], or [logits, the empty_head's [B, 1]], as
    the network predicts them in this view."""
    side = member.config.data.side
    view_side = round(view.scale * side / SIDE_STEP) * SIDE_STEP if view.scale != 1 else side
    network = member.network if view.scale == 1 else _resized_network(member, view_side, view)
    call = objective.with_layers(network, [blocks.LESION] if has_head else [])

    def predict(images):
        if view_side != side:
            images = tf.image.resize(images, (view_side, view_side), antialias=True)
        outputs = call(ops.flip(images, axis=2) if view.is_mirrored else images, training=False)
        return [_undo_view(ops.cast(output, "float32"), view, side) for output in outputs]

    return predict


def _undo_view(logits, view: View, side: int):
    """Return the logits that belong to the image itself; those per image, [B, C], stay."""
    if len(logits.shape) != 4:
        return logits
    logits = logits[..., -1:]  # the deepest head
    logits = ops.flip(logits, axis=2) if view.is_mirrored else logits
    if logits.shape[1] == side:
        return logits
    # p and 1 - p are resized each, as 1 - p of a p that rounds to 1 would be 0.
    p, q = (tf.image.resize(ops.sigmoid(sign * logits), (side, side)) for sign in (1, -1))
    return ops.log(ops.maximum(p, SMALLEST)) - ops.log(ops.maximum(q, SMALLEST))


def _resized_network(member: Member, side: int, view: View) -> keras.Model:
    """Return the same network for another side; raise InputError where it has none."""
    section, own_side = member.config.model, member.config.data.side
    if side in (0, own_side):
        raise InputError(
            f"--tta={view.scale:g}: {own_side} px times this is not another multiple of "
            f"{SIDE_STEP} px ({member.workdir})"
        )
    if section.kind == "vae":
        raise InputError(f"--tta={view.scale:g}: {member.workdir} holds a vae, which has one side")
    try:
        network = build(section.model_copy(update={"weights": None}), side)
    except InputError as error:
        raise InputError(f"--tta={view.scale:g}, {side} px for {member.workdir}: {error}") from None
    weight_files.copy_weights(member.network, network)
    return network


def mean_of(outputs: list[list], are_findings: bool = False) -> list:
    """Return the logits of the mean of the probabilities of members and views, of
    [[logits of pixels, logits of images], …]; finite where p itself rounds to 1. `are_findings`:
    each logit of an image has a probability of its own."""
    return [_mean_logits(list(logits), are_findings) for logits in zip(*outputs, strict=True)]


def _mean_logits(logits: list, are_findings: bool):
    """Return the logits of the mean probability, of M tensors of logits of one shape."""
    if len(logits) == 1:
        return logits[0]
    all_logits = ops.stack(logits)  # [M, …]
    are_classes = len(all_logits.shape) == 3 and all_logits.shape[-1] > 1 and not are_findings
    if are_classes:  # log p up to a constant
        return ops.logsumexp(ops.log_softmax(all_logits), axis=0)
    # log of p / (1 - p), where both are sums of sigmoids.
    p, q = (ops.logsumexp(ops.log_sigmoid(sign * all_logits), axis=0) for sign in (1, -1))
    return p - q
