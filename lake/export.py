"""The names in the folder of an export, for trainer.task export, which writes it, and beam.predict,
which reads it."""

DESCRIPTION, GRAPH = "export.json", "saved_model.pb"
# Signature of files, by lake.source's name of what is in them; and that of stored pixels.
SIGNATURES = {"dicom": "dicom", "images": "image"}
PIXELS = "pixels"
