"""Predictions of an export at a pipeline's scale: listing, model, shards, finish; beam.predict
pipes them.
In: an export and paths. Out: predictions, rejects, masks and SEGs in a folder."""
