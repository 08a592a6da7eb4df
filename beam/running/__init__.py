"""What every pipeline needs around its steps: a runner, files, progress, checks of options.
In: Beam's arguments and paths. Out: a job that has ended, or one message. All of beam/ asks."""
