"""The mean of several weights is a workdir of its own, with the statistics of its own network."""

import json
import shutil

import keras
import numpy as np
import pytest
from makers import trained

from trainer import workdir
from trainer.config import files
from trainer.data import batches, seen, splits
from trainer.evaluation import evaluate
from trainer.inference import ensemble
from trainer.models.window import to_unit

UNET = {"kind": "unet", "filters": 2, "depth": 1, "norm": "batch", "order": "conv_norm_act"}


@pytest.fixture(scope="module")
def run(lake, tmp_path_factory):
    """A run of random weights that has kept three epochs, which differ in every weight."""
    folder = trained.workdir_of(tmp_path_factory.mktemp("runs") / "run", lake, UNET, 32)
    config, network = workdir.load_network(folder)
    # Without augmentation, the images of an epoch are those of the lake, each once.
    transforms = {
        name: getattr(config.augment, name).model_copy(update={"probability": 0.0})
        for name in config.augment.possible_transforms()
    }
    augment = config.augment.model_copy(update=transforms)
    config = config.model_copy(update={"augment": augment})
    files.save(config, folder / workdir.CONFIG)
    seen.write(folder / workdir.SEEN, seen.gather(config.lake, config.data, []))
    (folder / "best").mkdir()
    generator, entries = np.random.default_rng(0), []
    for epoch in (3, 5, 8):
        noise = [generator.random(weight.shape) for weight in network.get_weights()]
        network.set_weights([w + one for w, one in zip(network.get_weights(), noise, strict=True)])
        name = f"best/epoch_{epoch:04d}.weights.h5"
        network.save_weights(folder / name)
        entries.append({"epoch": epoch, "value": 0.5, "weights": name})
    workdir.write_metrics(folder, {"kept": entries})
    return folder


def test_the_mean_of_the_kept_epochs(run, lake, tmp_path, capsys):
    output = tmp_path / "mean"
    trained.run_task("average", "--workdir", run, "--output", output)
    text = f"the mean of 3 weights of {run} (epoch 3, epoch 5, epoch 8), batch norm's statistics "
    text += "estimated anew on 24 training images."
    assert f"{output}: {text}" in capsys.readouterr().out
    config, network = workdir.load_network(output)
    norms = {
        layer.name for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert norms
    loaded = {layer.name: layer for layer in network.layers}
    means = {}
    for path in sorted((run / "best").iterdir()):
        network.load_weights(path)
        for layer in network.layers:
            for number, value in enumerate(layer.get_weights()):
                means.setdefault((layer.name, number), []).append(value)
    network.load_weights(output / workdir.BEST)
    for (name, number), values in means.items():
        actual = loaded[name].get_weights()[number]
        if name in norms and number >= 2:  # the moving mean and variance
            assert not np.allclose(actual, np.mean(values, axis=0), rtol=1e-2), name
            continue
        np.testing.assert_allclose(actual, np.mean(values, axis=0), rtol=1e-6, err_msg=name)
    # The first norm's mean is that of what the first convolution gives, over all training images.
    split = splits.training_split([splits.manifest.load(str(lake))], str(lake), config.data, False)
    images = []
    for batch in batches.evaluation_batches(split, config.data):
        keep = batch["weight"].numpy() > 0
        images.append(to_unit(batch["image"], batch["window"]).numpy()[keep])
    images = np.concatenate(images)
    assert len(images) == 24
    first = next(layer for layer in network.layers if layer.name in norms)
    inputs = keras.Model(network.input, first.input)(images, training=False)
    np.testing.assert_allclose(
        first.get_weights()[2], np.mean(inputs, axis=(0, 1, 2)), rtol=1e-3, atol=1e-5
    )


def test_evaluate_says_what_was_averaged(run, tmp_path):
    output = tmp_path / "mean"
    files_of = [run / "best" / f"epoch_{epoch:04d}.weights.h5" for epoch in (3, 8)]
    trained.run_task("average", "--workdir", run, "--weights", *files_of, "--output", output)
    [remark] = evaluate._unfinished_runs(ensemble.load([output]))
    assert remark.about == "average" and f"{output} is the mean of 2 weights" in remark.text
    facts = json.loads((output / workdir.METRICS).read_text())["average"]
    assert list(facts["weights"]) == [str(path) for path in files_of] and facts["command"]
    for one, two in zip(
        seen.read(output / workdir.SEEN), seen.read(run / workdir.SEEN), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_mistakes_are_one_message(run, lake, tmp_path, capsys):
    def message(*arguments) -> str:
        assert trained.exit_code("average", *arguments) == 2
        return capsys.readouterr().err

    output = "--output", tmp_path / "out"
    alone = shutil.copytree(run, tmp_path / "alone")
    workdir.write_metrics(alone, {"kept": []})
    assert "keeps the weights of one epoch" in message("--workdir", alone, *output)
    other = trained.workdir_of(tmp_path / "other", lake, UNET | {"filters": 3}, 32)
    pair = run / workdir.BEST, other / workdir.BEST
    assert "no images.npz of a run beside it" in message(
        "--workdir", run, "--weights", *pair, *output
    )
    shutil.copy(run / workdir.SEEN, other)
    assert "not of this run's network" in message("--workdir", run, "--weights", *pair, *output)
    content = json.loads((alone / workdir.LAKE).read_text()) | {"shards": "0" * 64}
    (alone / workdir.LAKE).write_text(json.dumps(content))
    files_of = sorted((alone / "best").iterdir())
    assert "is another lake than the one" in message(
        "--workdir", alone, "--weights", *files_of, *output
    )
    assert not (tmp_path / "out").exists()
