"""A trained predictor as one SavedModel that decodes files in its own graph.
In: workdirs. Out: an export folder; trainer.task export asks."""
