"""Losses, metrics, and the sums of an epoch, with Keras alone. In: masks, labels and logits.
Out: the loss of each image, scores of a split; training, inference, evaluation, display ask."""
