"""Pipelines for users to start; in here the name beam is Apache Beam's.
In: image files and label CSVs, or an export. Out: a lake, or a folder of predictions."""
