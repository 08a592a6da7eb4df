"""What trainer.task export writes into its folder and beam.predict reads there: names of files and
signatures, and in export.json how image files are read."""

from lake.scan import ReaderSettings, Storage

DESCRIPTION, SAVED_MODEL, ONNX_MODEL = "export.json", "saved_model.pb", "model.onnx"
# The signature of image files, by what lake.sources.reader calls their source.
SIGNATURES = {"dicom": "dicom", "images": "image"}
PIXELS = "pixels"  # the signature of stored pixels
RECORDS = "records"  # the signature of serialised records, as a lake holds them
# What decodes DICOM files in the graph: TensorFlow's own operations, or those of tensorflow-io.
GRAPH, TFIO = DECODERS = ("graph", "tfio")
# What export writes: a SavedModel with all these signatures, or an ONNX file with that of pixels.
FORMATS = SAVED, ONNX = ("savedmodel", "onnx")


def settings_to_json(settings: ReaderSettings) -> dict:
    """Return the section `stored` of export.json."""
    section = {"is_ct": settings.is_ct, "image_id_from": settings.image_id_from}
    return vars(settings.storage) | section | {"exams": list(settings.exams)}


def settings_from_json(section: dict) -> ReaderSettings:
    """Return the ReaderSettings of the section `stored`, the inverse of settings_to_json."""
    storage = Storage(**{name: section[name] for name in Storage.__dataclass_fields__})
    exams = tuple(section.get("exams", ()))  # absent in exports of an earlier radlake
    return ReaderSettings(section["is_ct"], section["image_id_from"], storage, exams)
