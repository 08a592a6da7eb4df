import numpy as np
import pytest
import tensorflow as tf

from lake import InputError
from trainer import losses

MASKS = np.float32([1, 0, 1, 1]).reshape(1, 2, 2, 1)
LOGITS = np.float32([1, -1, -1, 1]).reshape(1, 2, 2, 1)
SHARE = 0.010753784  # of positive pixels, as system 0 measured it


def dice(**options):
    return float(losses.dice(MASKS, LOGITS, **options)[0])


def bce():
    return float(losses.bce(MASKS, LOGITS)[0])


def combined(masks, logits, dice_weight=0.0, bce_weight=0.0, weighted_bce_weight=0.0):
    weights = dice_weight, bce_weight, weighted_bce_weight
    return losses.combined(masks, logits, *weights, positive_share=SHARE).numpy()


def test_values_of_the_published_systems():
    weighted = float(losses.weighted_bce(MASKS, LOGITS, SHARE)[0])
    assert dice(smooth=0, squared=True) == pytest.approx(0.178338, abs=1e-6)
    assert weighted == pytest.approx(45.173722, abs=1e-5)
    assert 2 * dice(smooth=0, squared=True) + weighted == pytest.approx(45.530398, abs=1e-5)
    assert dice() - 1 == pytest.approx(-0.743686, abs=1e-6)  # system 1
    assert dice() == pytest.approx(0.256314, abs=1e-6)  # systems 2 and 3
    assert bce() == pytest.approx(0.563262, abs=1e-6)
    assert combined(MASKS, LOGITS, 1, 1) == pytest.approx(0.819575, abs=1e-6)
    assert bce() - np.log(1 - dice()) == pytest.approx(0.859398, abs=1e-6)
    assert dice(smooth=1e-6) == pytest.approx(0.307577, abs=1e-6)
    assert 2.7 * bce() + 0.9 * dice(smooth=1e-6) == pytest.approx(1.797625, abs=1e-6)
    assert 0.5 * bce() - (1 - dice()) == pytest.approx(-0.462055, abs=1e-6)  # U-Net++


@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("squared", [False, True])
def test_dice_of_empty_masks_is_defined_and_so_is_its_gradient(smooth, squared):
    masks = np.zeros((3, 4, 4, 1), np.float32)
    logits = tf.constant(np.repeat(np.float32([-1000, 0, 1000]), 16).reshape(3, 4, 4, 1))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.dice(masks, logits, smooth, squared)
    assert loss[0] == 0
    assert loss[1] > 0.7
    assert loss[2] > 0.9
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_cross_entropy_is_stable_and_right_at_sure_logits():
    logits = np.float32([[-1000], [1000], [-1000], [1000]])
    labels = np.float32([[0], [1], [1], [0]])
    assert losses.bce(labels, logits).numpy().tolist() == [0, 0, 1000, 1000]
    weighted = losses.weighted_bce(labels, logits, positive_share=0.5)
    assert weighted.numpy().tolist() == [0, 0, 2000, 1000]


def test_losses_are_of_each_image_and_float32():
    masks = np.concatenate([MASKS, np.zeros_like(MASKS)])
    logits = np.concatenate([LOGITS, LOGITS])
    loss = losses.combined(tf.cast(masks, "uint8"), tf.cast(logits, "bfloat16"), 1, 1, 1, SHARE)
    assert (loss.shape, loss.dtype) == ((2,), tf.float32)
    assert loss[0] == combined(MASKS, LOGITS, 1, 1, 1)[0]


def test_deep_supervision_is_the_mean_over_the_heads():
    heads = [LOGITS, -LOGITS, 3 * LOGITS]
    expected = np.mean([combined(MASKS, head, 2, 1, 0.5) for head in heads])
    assert combined(MASKS, np.concatenate(heads, -1), 2, 1, 0.5) == pytest.approx(expected)


def test_a_weight_of_zero_leaves_its_term_out():
    alone = losses.combined(MASKS, LOGITS, 0, 3, 0, positive_share=0.0)  # which 1/β would divide by
    assert alone.numpy() == pytest.approx(3 * bce())
    with pytest.raises(InputError, match="every weight of the loss is 0"):
        combined(MASKS, LOGITS)


def test_megapixel_images_keep_their_digits_when_compiled():
    """One float32 sum, as XLA compiles it for a CPU, made these 1% wrong."""
    masks = np.zeros((1, 1024, 1024, 1), np.float32)
    masks[:, :100] = 1
    logits = np.full_like(masks, np.log(0.1 / 0.9))  # p = 0.1 everywhere
    share = 100 / 1024
    soft = 1 - 2 * 0.1 * share / (share + 0.1)
    entropy = -share * np.log(0.1) - (1 - share) * np.log(0.9)
    compiled = tf.function(losses.combined, jit_compile=True)
    loss = compiled(masks, logits, 1.0, 1.0, 0.0, 1.0)
    assert float(loss[0]) == pytest.approx(soft + entropy, rel=3e-5)
