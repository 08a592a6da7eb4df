"""What every pipeline needs to run: runners, files where they may be remote, progress, checks of
options.
In: Beam's arguments and paths. Out: a pipeline that has ended, or one message why not."""
