"""CT volumes: MetaImage, NIfTI and NRRD files, and series of DICOM slices.
In: bytes of headers and voxels. Out: Headers, HU, Scans, or a Reject; metaimage.py is the door."""
