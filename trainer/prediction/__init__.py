"""Predictions for images: masks, probabilities, overlays, submissions, votes.
In: workdirs and files or a lake. Out: a folder of predictions; trainer.task predict and vote
ask."""
