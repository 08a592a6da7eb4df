"""Training, evaluation, prediction and export of networks; task.py is the command.
In: a lake and a config, later workdirs. Out: a workdir, scores, predictions, an export."""
