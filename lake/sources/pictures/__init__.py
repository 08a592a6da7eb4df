"""PNG, JPEG, TIFF, BMP and GIF files.
In: bytes of a file. Out: Headers and Scans, or a Reject; images.py is the door, masks ask too."""
