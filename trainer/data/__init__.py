"""From a lake's shards to batches: splits, order, record, batches, cache.
In: a lake and a Data section. Out: a tf.data.Dataset that resumes at any step."""
