"""From files and labels to a lake; beam.convert pipes listing, labelling, plan, shards, finish.
In: flags, paths and labels. Out: shards, manifest, index and rejects in a folder."""
