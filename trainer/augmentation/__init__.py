"""Random changes of images and masks on the accelerator, per example.
In: a batch in [0, 1] and its draws. Out: the batch changed; training asks."""
