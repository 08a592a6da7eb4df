"""Encoded frames, as in DICOM files: JPEG, JPEG-LS, JPEG 2000, run lengths.
In: the bytes of a frame. Out: the claims of its headers, its samples, or a Reject.
dicom, pictures and the exports' decoders ask."""
