"""A config section goes in, a Keras model comes out.

Grey images [B, side, side, 1] float32 in [0, 1] -> logits, float32 under every precision; each
network maps [0, 1] to the range it wants itself.
"""


def build(section, side: int):
    """The keras.Model that a model section of config.py describes, with the weights it names.

    Call keras.utils.set_random_seed before it to fix the first weights.
    """
    from lake import InputError
    from trainer.models import classifier, unet, unetpp, vae, weight_files

    networks = {
        "unet": unet.network,
        "unetpp": unetpp.network,
        "vae": vae.network,
        "classifier": classifier.network,
    }
    weights, encoder = section.weights, getattr(section, "encoder", "plain")
    if weights == "imagenet" and encoder == "plain":
        raise InputError(
            "weights=imagenet: encoder=plain has none; use another encoder, or leave weights out"
        )
    network = networks[section.kind](section, side)
    if weights not in (None, "imagenet") and (
        weight_files.is_of_radlake(weights) or encoder == "plain"
    ):
        weight_files.load_radlake(network, weights)
    return network
