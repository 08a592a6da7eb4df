"""Multiply-accumulates of a network's convolutions, counted from its layers; on any backend."""

import keras


def forward_macs(network: keras.Model) -> int:
    """Return multiply-accumulates of the convolutions in one forward pass of one image."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.Model):  # an encoder of keras.applications
            total += forward_macs(layer)
        elif isinstance(layer, keras.layers.Conv2DTranspose):
            _, height, width, _ = layer.input.shape
            total += height * width * layer.kernel.numpy().size
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            _, height, width, _ = layer.output.shape
            total += height * width * layer.kernel.numpy().size
    return total
