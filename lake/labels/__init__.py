"""What is known of images: label tables, run lengths, nodules of CT.
In: CSV rows. Out: labels and masks; beam.convert and the sources of CT series ask."""
