"""From workdirs to one predictor, and from its probabilities to a decided mask.
In: workdirs and images. Out: probabilities, decisions; evaluation, prediction and serving ask."""
