"""The names of the sources, and what a file's name says of it: what a command line needs to know of
the readers."""

SOURCES = DICOM, IMAGES, METAIMAGE = "dicom", "images", "metaimage"  # the values of --source
# A pattern such as ct/** matches them, too, but they belong to the header that names them.
METAIMAGE_DATA = (".raw", ".zraw", ".raw.gz")


def is_data_file(source: str, path: str) -> bool:
    """Return whether the file holds the pixels of a MetaImage header, and is not an image by
    itself."""
    return source == METAIMAGE and path.lower().endswith(METAIMAGE_DATA)
