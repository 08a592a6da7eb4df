"""What a conversion will cost, from a sample of its files; beam.convert --estimate asks.
In: the flags of a conversion. Out: shards, bytes and core time, with their uncertainty."""
