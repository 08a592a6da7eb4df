"""The files of predictions that both predictors write: submissions, SEGs, candidates, exports.
In: decided masks and scores. Out: rows and objects; trainer predict and beam.predict ask."""
