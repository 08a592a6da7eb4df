"""Folders of predictions, as both predictors write them: tables, SEGs, candidates; and exports.
In: rows, masks, rejects. Out: files' bytes and objects; trainer.task predict and beam.predict
ask."""
