"""The hardware of a run: the strategy over replicas, and the workers of several machines.
In: train.device, TF_CONFIG or srun. Out: strategy, precision, the chief; training and data ask."""
