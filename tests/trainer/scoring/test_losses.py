"""Every loss against a NumPy version of its formula, published numbers, and the logits and masks
where formulas break."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.scoring import losses

MASKS = np.float32([1, 0, 1, 1]).reshape(1, 2, 2, 1)
LOGITS = np.float32([1, -1, -1, 1]).reshape(1, 2, 2, 1)
SHARE = 0.010753784  # of positive pixels, as albertsokol/pneumothorax-detection-unet measured it


def value(loss, *arguments, **options):
    return float(loss(MASKS, LOGITS, *arguments, **options)[0])


def dice(**options):
    return value(losses.dice, **options)


def bce():
    return value(losses.bce)


def test_values_of_the_published_systems():
    weighted_bce = value(losses.weighted_bce, SHARE)
    focal = value(losses.focal, gamma=2)
    soft = dice(smooth=1e-6)
    assert dice(smooth=0, is_squared=True) == pytest.approx(0.178338, abs=1e-6)
    assert weighted_bce == pytest.approx(45.173722, abs=1e-5)
    assert 2 * dice(smooth=0, is_squared=True) + weighted_bce == pytest.approx(45.530398, abs=1e-5)
    assert -value(losses.dice_score) == pytest.approx(-0.743686, abs=1e-6)  # JenifferWuUCLA
    assert dice() == pytest.approx(0.256314, abs=1e-6)  # jchen42703, Carrasquilla
    assert bce() == pytest.approx(0.563262, abs=1e-6)
    assert bce() + dice() == pytest.approx(0.819575, abs=1e-6)
    assert bce() + value(losses.log_dice) == pytest.approx(0.859398, abs=1e-6)
    assert soft == pytest.approx(0.307577, abs=1e-6)
    assert focal == pytest.approx(0.192461, abs=1e-6)
    assert 3 * bce() + soft + 4 * focal == pytest.approx(2.767204, abs=2e-6)  # SIIM 1st
    assert bce() + soft + focal == pytest.approx(1.063299, abs=2e-6)
    assert 2.7 * bce() + 0.9 * soft == pytest.approx(1.797625, abs=1e-6)  # SIIM 4th
    assert 0.5 * bce() - (1 - dice()) == pytest.approx(-0.462055, abs=1e-6)  # U-Net++
    assert value(losses.jaccard, smooth=1e-5) == pytest.approx(0.470451, abs=1e-6)  # MONAI


def test_tversky_of_kerass_own_test():
    """keras.losses.Tversky(.2, .8) says 0.7916667 there: its alpha is of false negatives."""
    masks = np.float32([[1, 0, 1, 0], [0, 1, 0, 1]] * 2).reshape(1, 4, 4, 1)
    predictions = np.float32([[0, 1, 0, 1], [1, 0, 1, 1]] * 2).reshape(1, 4, 4, 1)
    logits = np.where(predictions > 0, np.float32(1e4), np.float32(-1e4))
    for alpha, beta, expected in ((0.8, 0.2, 0.7916667), (0.5, 0.5, 0.7777778)):
        loss = losses.tversky(masks, logits, alpha, beta, smooth=0)
        assert float(loss[0]) == pytest.approx(expected, abs=1e-6)


def probabilities(logits):
    """In float64, but 0 and 1 at the sure logits, as in float32."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


def score(y, p, smooth, power=1):
    whole = (y**power).sum() + (p**power).sum() + smooth
    return (2 * (y * p).sum() + smooth) / whole if whole else 1.0


def tversky(y, p, alpha, beta, smooth):
    hits = (y * p).sum()
    whole = hits + alpha * ((1 - y) * p).sum() + beta * (y * (1 - p)).sum() + smooth
    return 1 - (hits + smooth) / whole if whole else 0.0


def entropy(y, z, share=1.0, smoothing=0.0, gamma=0.0):
    """Mean of the weighted, smoothed, focal cross-entropy, pixel by pixel."""
    weight, target = y / share + 1 - y, y * (1 - smoothing) + smoothing / 2
    surprise, relief = np.logaddexp(0, -z), np.logaddexp(0, z)  # −log p, −log(1 − p)
    p = np.exp(-surprise)
    return np.mean(
        weight * (target * (1 - p) ** gamma * surprise + (1 - target) * p**gamma * relief)
    )


def lovasz(y, z):
    """Berman's own code (LovaszSoftmax, lovasz_hinge_flat), in loops: a pixel's weight is by how
    much 1 − IoU grows when it is wrong as well as all that are worse."""
    y, z = y.ravel().tolist(), z.astype(np.float64).ravel().tolist()
    pixels = sorted(zip(y, z, strict=True), key=lambda pixel: (2 * pixel[0] - 1) * pixel[1])
    area, lost, alarms, before, total = sum(y), 0, 0, 0.0, 0.0
    for truth, logit in pixels:
        lost, alarms = lost + (truth == 1), alarms + (truth == 0)
        jaccard_loss = 1 - (area - lost) / (area + alarms)
        total += max(0.0, 1 - (2 * truth - 1) * logit) * (jaccard_loss - before)
        before = jaccard_loss
    return total


# name: (ours of masks and logits, NumPy's of one image's y, p and z in float64)
TERMS = {
    "dice": (losses.dice, lambda y, p, z: 1 - score(y, p, 1)),
    "dice, no smooth": (lambda m, z: losses.dice(m, z, 0), lambda y, p, z: 1 - score(y, p, 0)),
    "dice squared": (
        lambda m, z: losses.dice(m, z, 0, is_squared=True),
        lambda y, p, z: 1 - score(y, p, 0, power=2),
    ),
    "log dice": (losses.log_dice, lambda y, p, z: -np.log(score(y, p, 1))),
    "tversky": (
        lambda m, z: losses.tversky(m, z, 0.3, 0.7, 0.5),
        lambda y, p, z: tversky(y, p, 0.3, 0.7, 0.5),
    ),
    "jaccard": (lambda m, z: losses.jaccard(m, z, 0), lambda y, p, z: tversky(y, p, 1, 1, 0)),
    "lovasz": (losses.lovasz, lambda y, p, z: lovasz(y, z)),
    "bce": (losses.bce, lambda y, p, z: entropy(y, z)),
    "bce, smoothed": (lambda m, z: losses.bce(m, z, 0.1), lambda y, p, z: entropy(y, z, 1, 0.1)),
    "weighted bce": (
        lambda m, z: losses.weighted_bce(m, z, SHARE, 0.2),
        lambda y, p, z: entropy(y, z, SHARE, 0.2),
    ),
    "focal": (lambda m, z: losses.focal(m, z, 2.0), lambda y, p, z: entropy(y, z, gamma=2)),
    "focal, smoothed": (
        lambda m, z: losses.focal(m, z, 0.5, 0.1),
        lambda y, p, z: entropy(y, z, 1, 0.1, 0.5),
    ),
}
every_term = pytest.mark.parametrize("name", TERMS)


@pytest.fixture
def cases():
    """Masks and logits [10, 6, 5, 1]: masks empty, full and neither; logits sure of either and
    neither."""
    rng = np.random.default_rng(1)
    masks = np.float32(rng.random((10, 6, 5, 1)) < 0.4)
    masks[[0, 1, 2]], masks[[3, 4, 5]] = 0, 1
    logits = rng.normal(scale=3, size=masks.shape).astype(np.float32)
    logits[[0, 3, 6]], logits[[1, 4, 7]] = -1e4, 1e4
    return masks, logits


@every_term
@pytest.mark.parametrize("jit", [False, True])
def test_every_term_equals_its_formula(cases, name, jit):
    ours, formula = TERMS[name]
    masks, logits = cases
    p = probabilities(logits)
    expected = [
        formula(y.astype(np.float64), q, z) for y, q, z in zip(masks, p, logits, strict=True)
    ]
    loss = (tf.function(ours, jit_compile=True, autograph=False) if jit else ours)(
        tf.constant(masks), logits
    )
    assert loss.shape == (10,)
    assert loss.numpy() == pytest.approx(expected, rel=1e-5 if jit else 1e-6, abs=1e-6)


@every_term
def test_gradients_are_finite_where_formulas_are_not(cases, name):
    """Between −20 and −100 p or p² is tiny and not yet 0; compiled, its 1/x² once made this nan."""

    def loss_and_gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = TERMS[name][0](cases[0], logits)
        return loss, tape.gradient(loss, logits)

    compiled = tf.function(loss_and_gradient, jit_compile=True, autograph=False)
    for size in (0, 20, 30, 46, 60, 80, 100, 1e4):
        for logits in (size * np.sign(cases[1]), np.full_like(cases[1], -size)):
            for either in (loss_and_gradient, compiled):
                loss, gradient = either(tf.constant(logits, tf.float32))
                assert np.isfinite(loss).all() and np.isfinite(gradient).all(), size


@every_term
def test_bfloat16_logits_are_computed_in_float32(cases, name):
    masks, logits = cases
    logits = tf.cast(logits, "bfloat16")
    loss = TERMS[name][0](tf.cast(masks, "uint8"), logits)
    assert loss.dtype == tf.float32
    assert np.array_equal(loss, TERMS[name][0](masks, tf.cast(logits, "float32")))


def test_lovasz_has_the_slope_of_its_formula(cases):
    masks, logits = (part[6:] for part in cases)
    logits = np.clip(logits, -2, 2) * np.linspace(0.9, 1, logits[0].size).reshape(logits[0].shape)
    watched = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = losses.lovasz(masks, watched)
    gradient, step = tape.gradient(loss, watched).numpy(), 1e-5  # no two pixels change places
    for image in range(len(masks)):
        for place in np.ndindex(masks[image].shape):
            sides = []
            for sign in (1, -1):
                moved = logits[image].astype(np.float64)
                moved[place] += sign * step
                sides.append(lovasz(masks[image].astype(np.float64), moved))
            slope = (sides[0] - sides[1]) / (2 * step)
            assert gradient[image][place] == pytest.approx(slope, abs=1e-4)
    assert (np.abs(gradient) > 0).mean() > 0.3


def test_lovasz_is_the_iou_of_plain_answers_and_keeps_its_digits_when_compiled():
    """At ±1 a wrong pixel's hinge is 2 and a right one's 0: it is 2·(1 − IoU); of a megapixel."""
    masks = np.zeros((1, 1024, 1024, 1), np.float32)
    masks[:, :100] = 1
    logits = np.full_like(masks, -1)
    logits[:, 50:130] = 1
    expected = 2 * (1 - 50 / 130)
    for call in (losses.lovasz, tf.function(losses.lovasz, jit_compile=True)):
        assert float(call(masks, logits)[0]) == pytest.approx(expected, rel=3e-5)


def test_an_empty_mask_is_right_when_nothing_is_predicted():
    masks = np.zeros((3, 4, 4, 1), np.float32)
    logits = np.repeat(np.float32([-1000, 0, 1000]), 16).reshape(3, 4, 4, 1)
    for name in ("dice", "dice, no smooth", "dice squared", "log dice", "tversky", "jaccard"):
        nothing, half, everything = TERMS[name][0](masks, logits).numpy()
        assert nothing == 0 and half > 0.7 and everything > 0.9, name


def test_cross_entropy_is_stable_and_right_at_sure_logits():
    logits = np.float32([[-1000], [1000], [-1000], [1000]])
    labels = np.float32([[0], [1], [1], [0]])
    assert losses.bce(labels, logits).numpy().tolist() == [0, 0, 1000, 1000]
    assert losses.focal(labels, logits, 2.0).numpy().tolist() == [0, 0, 1000, 1000]
    weighted_bce = losses.weighted_bce(labels, logits, positive_share=0.5)
    assert weighted_bce.numpy().tolist() == [0, 0, 2000, 1000]


def test_smoothing_leaves_the_background_below_one_half():
    """Where the loss is lowest: p = ε/2 on the background, 1 − ε/2 on a lesion, whatever β."""
    logits = np.linspace(-5, 5, 2001, dtype=np.float32)[:, None]
    for label, lowest in ((0, 0.05), (1, 0.95)):
        loss = losses.weighted_bce(np.full_like(logits, label), logits, SHARE, smoothing=0.1)
        p = 1 / (1 + np.exp(-logits[np.argmin(loss), 0]))
        assert p == pytest.approx(lowest, abs=1e-3)


def test_a_pool_joins_images_before_the_division(cases):
    masks, logits = cases[0][5:], cases[1][5:]
    loss = losses.dice(masks, logits, pool=lambda sums: tf.reduce_sum(sums, 1, keepdims=True))
    # Once for the batch, `smooth` too.
    expected = 1 - score(masks.astype(np.float64), probabilities(logits), smooth=1)
    assert loss.numpy() == pytest.approx([expected], abs=1e-6)


def test_lesion_head_learns_whether_a_mask_is_empty():
    masks = np.zeros((2, 4, 4, 1), np.float32)
    masks[1, 3, 3] = 0.25  # what is left of a lesion at the border
    loss = losses.lesion_bce(masks, np.float32([[2], [2]])).numpy()
    assert loss == pytest.approx([np.log1p(np.exp(2)), np.log1p(np.exp(-2))], rel=1e-6)


def test_terms_of_the_autoencoder():
    images = np.float32([[0, 1], [0.5, 0.5]]).reshape(1, 2, 2, 1)
    assert losses.reconstruction(images, images + np.float32(0.5)).numpy() == pytest.approx([0.25])
    means, variances = np.float32([[0, 0], [0.7, -1.2]]), np.float32([[1, 1], [0.3, 2.0]])
    x = np.linspace(-25, 25, 200_001)
    expected = []
    for mean, variance in zip(means, variances, strict=True):
        densities = [
            (np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v), (x - m) ** 2 / (2 * v), v)
            for m, v in zip(mean, variance, strict=True)
        ]
        # ∫ q·(log q − log N(0, 1)), doubled, by the pixels.
        integrals = (q * (x**2 / 2 - e - np.log(v) / 2) for q, e, v in densities)
        expected.append(2 * sum(values.sum() for values in integrals) * (x[1] - x[0]) / 64)
    actual = losses.kl_divergence(means, np.log(variances), image_px=64).numpy()
    assert actual == pytest.approx(expected, abs=1e-6) and actual[0] == 0


def test_megapixel_images_keep_their_digits_when_compiled():
    """One float32 sum, as XLA compiles it for a CPU, made these 1% wrong."""
    masks = np.zeros((1, 1024, 1024, 1), np.float32)
    masks[:, :100] = 1
    logits = np.full_like(masks, np.log(0.1 / 0.9))  # p = 0.1 everywhere
    share = 100 / 1024
    soft = 1 - 2 * 0.1 * share / (share + 0.1)
    entropy = -share * np.log(0.1) - (1 - share) * np.log(0.9)
    compiled = tf.function(
        lambda masks, logits: losses.dice(masks, logits) + losses.bce(masks, logits),
        jit_compile=True,
    )
    assert float(compiled(masks, logits)[0]) == pytest.approx(soft + entropy, rel=3e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_softmax_cross_entropy_is_its_definition_and_finite(jit):
    loss = losses.softmax_cross_entropy
    loss = tf.function(loss, jit_compile=True, autograph=False) if jit else loss
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(scale=3, size=(50, 4)), rng.integers(0, 4, 50)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for smoothing in (0.0, 0.2):
        targets = np.full((50, 4), smoothing / 4)
        targets[np.arange(50), labels] = 1 - smoothing * 3 / 4
        expected = -(targets * np.log(shares)).sum(axis=1)
        actual = loss(np.float32(labels), np.float32(logits), smoothing)
        assert actual.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    sure = np.float32([[1e4, 0, 0], [1e4, 0, 0]])
    assert loss(np.float32([0, 1]), sure).numpy().tolist() == [0, 1e4]


def test_softmax_of_two_logits_is_the_binary_cross_entropy_of_their_difference():
    rng = np.random.default_rng(7)
    logits, labels = rng.normal(scale=3, size=(9, 2)).astype("float32"), rng.integers(0, 2, 9)
    for smoothing in (0.0, 0.3):
        binary = losses.bce(labels[:, None], logits[:, 1:] - logits[:, :1], smoothing).numpy()
        actual = losses.softmax_cross_entropy(labels, logits, smoothing).numpy()
        assert actual == pytest.approx(binary, rel=1e-5, abs=1e-6)
