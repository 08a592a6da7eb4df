"""From a lake's shards to batches: splits, order, record, batches, cache, damage.
In: a lake and a Data section. Out: a tf.data.Dataset that resumes at any step; all verbs ask."""
