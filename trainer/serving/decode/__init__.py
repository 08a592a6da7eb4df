"""DICOM, PNG and JPEG files decoded by TensorFlow operations alone.
In: the bytes of files. Out: stored pixels as the converter makes them, or why not; serving asks."""
