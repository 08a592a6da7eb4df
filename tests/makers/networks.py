"""Small networks of every kind, with random weights."""

import numpy as np

from trainer.config.network import Classifier, Unet, UnetPlusPlus, Vae
from trainer.models import blocks


def classifier(**fields):
    return Classifier(kind="classifier", **{"encoder": "plain", "filters": 8, "depth": 3} | fields)


def vae(**fields):
    return Vae(kind="vae", **{"filters": 8, "blocks": (1, 1, 1), "latent": 4} | fields)


def all_outputs(network):
    """Return the network's output and the outputs that only its loss uses."""
    last = network.layers[-1]
    return last.input if isinstance(last, blocks.FirstOf) else [network.output]


# The U-Nets of albertsokol/pneumothorax-detection-unet: the norm behind the activation, one
# convolution in a decoder's block, transposed 3x3 convolutions with activation and norm.
ALBERTSOKOL = {
    "norm": "batch",
    "order": "conv_act_norm",
    "decoder_convolutions": 1,
    "upsampling": "transposed_3x3",
}


def plus(**fields):
    return UnetPlusPlus(kind="unetpp", **{"filters": 8, "depth": 2} | fields)


def plain(**fields):
    return Unet(kind="unet", **{"filters": 8, "depth": 2} | fields)


def images(side, batch=2, channels=1):
    return np.random.default_rng(0).random((batch, side, side, channels), np.float32)


def with_random_weights(network):
    """Biases, scales and statistics too, so that a wrong one shows; kernels about zero."""
    rng = np.random.default_rng(1)
    network.set_weights(
        [rng.uniform(0.1, 0.5, w.shape) - 0.3 * (w.ndim > 1) for w in network.get_weights()]
    )
    return network
