"""A search over values of a config: many runs, of which the scores choose the next. In: a config
and a space of values. Out: a folder of runs, a table, the best config; trainer.task tune asks."""
