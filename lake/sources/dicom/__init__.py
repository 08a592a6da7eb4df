"""DICOM files, from their elements to grey levels.
In: bytes of a file. Out: Headers and Scans, or a Reject; dicom.py is the door, volumes ask too."""
