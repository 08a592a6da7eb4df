"""The names in the folder of an export, for trainer.task export, which writes it, and beam.predict,
which reads it."""

DESCRIPTION, SAVED_MODEL = "export.json", "saved_model.pb"
# Signature of files, by lake.source's name of what is in them; and that of stored pixels.
SIGNATURES = {"dicom": "dicom", "images": "image"}
PIXELS = "pixels"
# What decodes the DICOM files of an export: TensorFlow's own operations, or tensorflow-io's.
GRAPH, TFIO = DECODERS = ("graph", "tfio")
