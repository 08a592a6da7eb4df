"""Mask files of every format that images have, and DICOM SEGs.
In: bytes and the name of a file. Out: run lengths, the images' ids; masks.py is the door."""
