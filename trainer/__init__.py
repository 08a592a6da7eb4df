"""From a lake to a trained network: input, augmentation, networks, losses, metrics, the distributed
loop."""
