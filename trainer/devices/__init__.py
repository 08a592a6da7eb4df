"""The hardware of a run: the strategy over replicas, and the workers of several machines.
In: train.device and TF_CONFIG. Out: a strategy, precision, who is chief; training and data ask."""
