"""Members of ensembles with random weights."""

from pathlib import Path

import keras

from trainer.config.run import Config
from trainer.inference.views import Member
from trainer.models.build import build

UNET = {"kind": "unet", "filters": 4, "depth": 1, "norm": "batch"}
CLASSIFIER = {"kind": "classifier", "encoder": "plain", "filters": 4, "depth": 1}


def member(name: str, model: dict, seed: int, side: int = 32, **sections) -> Member:
    """Return a network of random weights, as if it was trained."""
    sections = {"data": {"side": side, "batch_size": 3, **sections.pop("data", {})}, **sections}
    config = Config.model_validate({"model": model, "lake": "a", **sections})
    keras.utils.set_random_seed(seed)
    network = build(config.model, side)
    network.set_weights([1.5 * weight for weight in network.get_weights()])
    return Member(Path(name), config, network)
