"""The networks and their weights. Keras alone.
In: a config section. Out: a Keras model of logits; training and inference ask."""
