"""DICOM files, from their elements to grey levels.
In: bytes of a file. Out: Headers, Scans, Rejects; dicom.py is the door, volumes and masks ask."""
