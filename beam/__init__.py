"""Pipelines: from image files and label CSVs to a lake. Inside this package Apache Beam is `import
apache_beam`."""
