"""Members, views and cascades equal slow loops over one image at a time; what does not go together
is refused."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from makers.members import CLASSIFIER, UNET, member

from lake import InputError
from lake.records import manifest
from trainer.data import batches, splits
from trainer.inference import ensemble, views
from trainer.inference.ensemble import Ensemble
from trainer.inference.views import View


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def batch_of(side: int, images: int = 3) -> dict:
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 1), np.uint8)
    return {"image": tf.constant(pixels), "window": tf.constant([[0.0, 255.0]] * images)}


def resized(image: np.ndarray, side: int, antialias: bool = False) -> np.ndarray:
    return tf.image.resize(image[None], (side, side), antialias=antialias).numpy()[0]


def test_the_mean_is_of_probabilities_and_stays_finite():
    logits = [np.float32([[-3.0, 90.0], [0.5, -90.0]])[..., None, None] + n for n in range(3)]
    (mean,) = views.mean_of([[one] for one in logits])
    expected = np.mean([sigmoid(one) for one in logits], axis=0)
    np.testing.assert_allclose(sigmoid(mean), expected, atol=1e-6)
    assert np.isfinite(mean).all() and np.asarray(mean)[0, 1, 0, 0] > 80


def test_the_mean_over_classes():
    logits = [np.float32([[1, 2, 3], [0, 5, -5]]), np.float32([[3, 2, 1], [4, 4, 4]])]
    (mean,) = views.mean_of([[one] for one in logits])
    odds = np.exp(np.float64(logits))
    expected = (odds / odds.sum(axis=-1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(
        np.exp(mean) / np.exp(mean).sum(axis=-1, keepdims=True), expected, 1e-5
    )


def test_members_and_views_equal_a_slow_loop():
    members = [member("a", UNET, 1), member("b", UNET | {"filters": 6}, 2)]
    system = Ensemble(members, [], ("flip", "1.5"))
    batch = batch_of(32)
    actual = system(batch).probabilities.numpy()
    larger = [member("a", UNET, 1, side=48), member("b", UNET | {"filters": 6}, 2, side=48)]
    for number, pixels in enumerate(batch["image"].numpy() / np.float32(255)):
        total = np.zeros((32, 32, 1))
        for small, large in zip(members, larger, strict=True):
            for network, side in ((small.network, 32), (large.network, 48)):
                image = pixels if side == 32 else resized(pixels, side, antialias=True)
                for mirror in (False, True):
                    view = image[:, ::-1] if mirror else image
                    p = sigmoid(network(view[None], training=False).numpy()[0]).astype(np.float32)
                    p = p[:, ::-1] if mirror else p
                    total += p if side == 32 else resized(p, 32)
        np.testing.assert_allclose(actual[number], total / 8, atol=2e-6)
    assert actual.std() > 0.05


def test_a_cascade_asks_its_classifiers_with_their_own_images(lake):
    classifiers = [member(f"c{seed}", CLASSIFIER, seed, side=16) for seed in (3, 4)]
    system = Ensemble([member("s", UNET, 1)], classifiers)
    split = splits.named_split(manifest.load(str(lake)), str(lake), "val")
    alone = batches.evaluation_batches(split, classifiers[0].config.data)
    expected, actual = [], []
    for batch in alone:
        images = batch["image"].numpy() / np.float32(255)
        probabilities = [
            sigmoid(one.network(images, training=False).numpy()[:, 0]) for one in classifiers
        ]
        expected += list(np.mean(probabilities, axis=0))
    for batch in system.batches(split):
        outputs = system(batch)
        assert outputs.probabilities.shape == (3, 32, 32, 1)
        actual += list(outputs.lesion.numpy())
        np.testing.assert_allclose(sigmoid(outputs.scores), outputs.lesion, atol=1e-6)
    assert len(actual) == 9
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_views():
    assert views.parse_tta(["none"]) == [View()]
    assert views.parse_tta(["flip"]) == [View(), View(1.0, True)]
    assert views.parse_tta(["0.5", "flip"]) == [
        View(),
        View(1.0, True),
        View(0.5, False),
        View(0.5, True),
    ]


@pytest.mark.parametrize("tta", [["0.5", "0.5"], ["sideways"], ["1"], ["9"], ["nan"]])
def test_other_views_are_refused(tta):
    with pytest.raises(InputError, match="expected none, flip, or scales"):
        views.parse_tta(tta)
    with pytest.raises(InputError, match="none goes alone"):
        views.parse_tta(["none", "flip"])


def test_thresholds_are_chosen_on_folds_that_a_member_did_not_train_on():
    members = [member(f"fold{n}", UNET, n, data={"fold": n}) for n in (0, 1)]
    twin = member("other", UNET, 5, data={"fold": 0})
    parts = Ensemble([*members, twin], []).fold_ensembles()
    names = [[one.workdir.name for one in part.segmenters] for part in parts]
    assert names == [["fold0", "other"], ["fold1"]]
    classifier = member("c", CLASSIFIER, 3, data={"fold": 0})
    with pytest.raises(InputError, match="fold 0, fold 1 after classifiers that hold out fold 0"):
        Ensemble(members, [classifier]).fold_ensembles()
    system = Ensemble([member("a", UNET, 1), member("b", UNET, 2)], [])
    assert system.fold_ensembles() == [system]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"side": 16}, "data.side=32 of a, 16 of b"),
        ({"data": {"fit": "stretch"}}, "data.fit=pad of a, stretch of b"),
    ],
)
def test_members_of_different_input_are_refused(second, message):
    with pytest.raises(InputError, match=message):
        Ensemble([member("a", UNET, 1), member("b", UNET, 2, **second)], [])


def test_a_classifier_of_many_classes_goes_before_no_segmenter():
    many = member("c", CLASSIFIER | {"classes": 3}, 1)
    with pytest.raises(InputError, match="knows 3 classes"):
        Ensemble([member("a", UNET, 1)], [many])


def test_a_scale_that_a_network_cannot_have_is_refused():
    deep = member("deep", UNET | {"depth": 5}, 1)
    with pytest.raises(InputError, match=r"--tta=1.5, 48 px for deep: .*cannot be halved"):
        Ensemble([deep], [], ("1.5",))
    small = member("small", UNET, 1, side=16)
    with pytest.raises(InputError, match="16 px times this is not another multiple of 16 px"):
        Ensemble([small], [], ("0.5",))
    vae = {"kind": "vae", "filters": 8, "blocks": [1, 1], "latent": 8}
    vae = member("vae", vae, 1, loss={"reconstruction": 0.1})
    with pytest.raises(InputError, match="holds a vae, which has one side"):
        Ensemble([vae], [], ("1.5",))


def test_the_weights_are_those_that_were_loaded(systems, tmp_path):
    """A run that still trains writes better ones beside evaluate."""
    workdir = shutil.copytree(systems["cascade"][1], tmp_path / "run")
    system = ensemble.load([workdir])
    before = system.weights_sha256()
    (workdir / "best.weights.h5").write_bytes(b"better")
    assert system.weights_sha256() == before
    assert Ensemble(system.members, ()).weights_sha256() != before
