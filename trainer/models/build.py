"""A config section goes in, a Keras model comes out.

Grey images [B, side, side, 1] float32 in [0, 1] -> logits, float32 under every precision; each
network maps [0, 1] to the range it wants itself.
"""


def build(section, side: int):
    """Return the keras.Model that a section of trainer/config/network.py describes, with the
    weights that it names; raise InputError for weights that it cannot have.

    Call keras.utils.set_random_seed before it to fix the first weights.
    """
    from lake import InputError
    from trainer.config.network import ALL
    from trainer.models import classifier, unet, unetpp, vae, weight_files

    if getattr(section, "findings", None) == ALL:  # only a lake knows how many these are
        raise InputError("model.findings=all: expected the findings of a lake by their names")
    networks = {"unet": unet, "unetpp": unetpp, "vae": vae, "classifier": classifier}
    weights, is_plain = section.weights, getattr(section, "encoder", "plain") == "plain"
    if weights == "imagenet" and is_plain:
        raise InputError(
            "weights=imagenet: encoder=plain has none; use another encoder, or leave weights out"
        )
    network = networks[section.kind].build(section, side)
    # The weights of a network of keras.applications were loaded where its encoder was built.
    is_file = weights not in (None, "imagenet")
    if is_file and (weight_files.is_radlake_file(weights) or is_plain):
        weight_files.load_radlake(network, weights)
    return network
