"""A hospital whose images and labels become more each night, small enough to see."""

import os
from pathlib import Path

import numpy as np
from makers import dicom

from lake.records import example, manifest, tfrecord

SIDE = 24  # pixels


class Hospital:
    """Holds the images and labels that a hospital has by now, as files in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.patients, self.labels = folder, {}, {}
        (folder / "dicom").mkdir(parents=True)

    @property
    def images(self) -> str:
        return str(self.folder / "dicom" / "*.dcm")

    def add(self, image_id: str, patient: str, label: str | None = "-1", **attributes) -> Path:
        """Write one image, and its row unless the label is None."""
        number = len(self.patients) + 1
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)
        path = self.folder / "dicom" / f"{image_id}.dcm"
        study = f"1.2.3.{number}"
        path.write_bytes(
            dicom.make(pixels, **{"PatientID": patient, "StudyInstanceUID": study} | attributes)
        )
        os.utime(path, (number, number))
        self.patients[image_id] = patient
        if label is not None:
            self.labels[image_id] = label
        return path

    def csv(self, name: str = "labels.csv") -> Path:
        """Write the labels, as they are by now."""
        rows = [f"{image_id},{label}\n" for image_id, label in self.labels.items()]
        path = self.folder / name
        path.write_text("ImageId,EncodedPixels\n" + "".join(rows))
        return path


def records(folder: Path, content: dict) -> dict[str, dict]:
    """Return {image id: its split, its bytes and its fields} of the lake with this manifest."""
    rows = {}
    for shard in content["shards"]:
        with (folder / shard["name"]).open("rb") as file:
            for record, is_intact in tfrecord.records(file):
                fields = example.decode(record, len(manifest.findings(content)))
                row = {"split": shard["split"], "bytes": record, "fields": fields}
                assert is_intact and fields["image_id"].decode() not in rows
                rows[fields["image_id"].decode()] = row
    return rows
