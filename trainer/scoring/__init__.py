"""Losses, metrics, and the sums that scores are made of. Keras alone.
In: masks, labels and logits. Out: the loss of each image, and scores of a split."""
