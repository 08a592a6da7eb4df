"""The networks and their weights, by Keras, NumPy and h5py; no TensorFlow of their own.
In: a config section. Out: a Keras model of logits; training, inference, scoring and workdir ask."""
