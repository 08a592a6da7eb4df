"""Pipelines: from image files and label CSVs to a lake, and from an export to predictions. Inside
this
package Apache Beam is `import apache_beam`."""
