"""How good trained networks are: thresholds, scores, intervals, subgroups, report.html.
In: workdirs and a lake. Out: metrics.json, curves and a report; trainer.task evaluate asks."""
