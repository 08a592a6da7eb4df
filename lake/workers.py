"""The workers of a conversion on Dataflow, unless others are asked for: launch.dataflow rents them,
beam.convert --estimate counts with them."""

MACHINE, MOST = "e2-standard-4", 20
DISK_GB = 50  # of each
