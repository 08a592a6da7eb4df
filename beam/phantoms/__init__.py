"""Chest X-rays drawn from anatomy, with pneumothoraces; beam.synthetic writes them as DICOM.
In: a random generator. Out: pixels and the lesion's mask."""
