"""Pipelines for users to start; inside this package Apache Beam is `import apache_beam`.
In: image files and label CSVs, or an export. Out: a lake, or a folder of predictions."""
