"""The lake on a disk: record, TFRecord, mask PNG, manifest.
In: scans and labels, or shards. Out: bytes, or fields; the writer (beam) and reader (trainer)
ask."""
