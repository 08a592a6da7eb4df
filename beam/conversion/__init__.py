"""From files and label CSVs to a lake: listing, plan, shards, finish; beam.convert pipes them.
In: paths, labels and flags. Out: shards, manifest, index and rejects in a folder."""
