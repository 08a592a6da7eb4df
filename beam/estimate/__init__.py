"""Estimates a conversion from a sample of its files; beam.convert --estimate asks.
In: the options of a conversion. Out: shards, bytes and core time, with their uncertainty."""
