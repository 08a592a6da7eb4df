"""Readers of image files: DICOM, PNG and JPEG, MetaImage and CT series.
In: the bytes of a file. Out: Headers and Scans (lake/scan.py), or a Reject; reader.py picks the
module."""
