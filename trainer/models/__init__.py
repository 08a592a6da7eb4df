"""The networks: a config section goes in, a Keras model comes out.

Grey images [B, side, side, 1] float32 in [0, 1] -> logits, float32 under every precision; each
network maps [0, 1] to the range it wants itself.
"""

import keras

from trainer.config import Classifier, UnetPlusPlus
from trainer.models import classifier, unetpp

NETWORKS = {"unetpp": unetpp.network, "classifier": classifier.network}


def build(config: UnetPlusPlus | Classifier, side: int) -> keras.Model:
    """The network that `config` describes.

    Call keras.utils.set_random_seed before it to fix the first weights.
    """
    return NETWORKS[config.kind](side, **config.model_dump(exclude={"kind"}))
