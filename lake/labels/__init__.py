"""Labels of images: tables of them, run-length codes of masks, nodules of CT.
In: CSV rows. Out: labels and masks; the lake's rooms, beam and trainer ask."""
