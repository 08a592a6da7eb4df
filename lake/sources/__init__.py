"""Readers of image files: reader.py picks one by the source, kinds.py says what no source reads.
In: the bytes of a file. Out: Headers and Scans (lake/scan.py), or a Reject; all packages ask."""
