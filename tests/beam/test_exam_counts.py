"""The manifest counts what the images of a lake show; lakes of before stay as they are."""

import json

import numpy as np
from makers.dicom import make

from lake.__main__ import main
from lake.records import manifest
from trainer.workdir import describe_lake

PIXELS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
EXAMS = (
    {"Modality": "CR", "BodyPartExamined": "CHEST"},
    {"Modality": "DX", "BodyPartExamined": "THORAX"},
    {"BodyPartExamined": "DOE"},
)
COUNTS = {
    "modalities": {"CR": 1, "DX": 1, "absent": 1},
    "body_parts": {"CHEST": 2, "other": 1},
    "secondary_captures": 0,
}


def test_a_lake_counts_what_its_images_show(tmp_path, convert, capsys):
    images, labels, folder = tmp_path / "dicom", tmp_path / "rle.csv", tmp_path / "x" / "1.0.0"
    images.mkdir()
    for number, attributes in enumerate(EXAMS):
        (images / f"{number}.dcm").write_bytes(make(PIXELS, **attributes))
    labels.write_text("ImageId,EncodedPixels\n" + "".join(f"{k},-1\n" for k in range(3)))
    options = (images / "*.dcm", labels, folder, "--splits=train=1")
    content = convert(*options)
    assert content["counts"]["exams"] == COUNTS and describe_lake(content)["exams"] == COUNTS
    assert "modalities: CR 1, DX 1, absent 1\n" in capsys.readouterr().out
    assert "DOE" not in (folder / "manifest.json").read_text()
    assert main(["verify", str(folder)]) == 0
    # As an earlier radlake wrote it.
    del content["counts"]["exams"]
    (folder / "manifest.json").write_text(manifest.to_json(content))
    for path in (folder / ".work").glob("*.json"):
        sidecar = json.loads(path.read_text())
        if sidecar.pop("exams", None):
            path.write_text(json.dumps(sidecar))
    assert convert(*options) == content and describe_lake(content)["exams"] is None
    assert "nothing was written" in capsys.readouterr().out
