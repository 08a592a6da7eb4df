"""Labels of images: tables of them, run-length codes of masks, nodules of CT.
In: CSV rows. Out: labels and masks; beam.convert and the readers of CT series ask."""
