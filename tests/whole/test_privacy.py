"""No name travels: known values planted everywhere in a DICOM file are nowhere in the lake."""

import re

import pydicom
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.encaps import encapsulate, generate_frames

TEXT = ("AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "UI", "DA", "TM", "DT")
# What the pixels need is no place for a name that would still decode.
NEEDED = {"PhotometricInterpretation", "TransferSyntaxUID", "SpecificCharacterSet"}
MARK = b"Zaphod"


def plant(path, target) -> int:
    """Writes the file with a marked value in every text element; returns how many."""
    dataset = pydicom.dcmread(path)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    comment = b"\xff\xfe\x00\x12Zaphod^Comment."
    profile = b"\xff\xe1\x00\x11Zaphod\x00in-Exif"
    dataset.PixelData = encapsulate([frame[:2] + comment + profile + frame[2:]])
    num_values = 0
    with pydicom.config.disable_value_validation():
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
            group = tag >> 16
            if vr in TEXT and keyword and keyword not in NEEDED and 0x0008 <= group < 0x7FE0:
                dataset.add_new(tag, vr, f"Zaphod^{keyword}"[:60])
                num_values += 1
        block = dataset.private_block(0x0011, "Zaphod Systems", create=True)
        block.add_new(0x01, "LO", "Zaphod^Private")
        item = pydicom.Dataset()
        item.add_new(tag_for_keyword("PatientName"), "PN", "Zaphod^Nested")
        deeper = pydicom.Dataset()
        deeper.OtherPatientIDsSequence = [item]
        dataset.ReferencedPatientSequence = [deeper]
        dataset.file_meta.ImplementationVersionName = "Zaphod"
        dataset.file_meta.SourceApplicationEntityTitle = "Zaphod"
        dataset.preamble = b"Zaphod".ljust(128, b"\0")
        dataset.save_as(target)
    return num_values


def test_planted_values_are_nowhere_in_the_lake(phantoms, convert, tmp_path):
    folder, output = tmp_path / "Zaphod-Beeblebrox", tmp_path / "out" / "x" / "1.0.0"
    folder.mkdir()
    paths = sorted(phantoms.glob("dicom/*.dcm"))[:4]
    for number, path in enumerate(paths):
        target = folder / f"Zaphod-{number}.dcm"
        assert plant(path, target) > 1000
        assert target.read_bytes().count(MARK) > 1000
    rows = "".join(f"Zaphod-{number},1 {number + 1}\n" for number in range(4))
    (folder / "labels.csv").write_text(f"ImageId,EncodedPixels\n{rows}")
    manifest = convert(folder / "*.dcm", folder / "labels.csv", output, "--image_id=hash")
    assert manifest["counts"]["records"] == 4
    lake_files = [path for path in output.rglob("*") if path.is_file()]
    assert len(lake_files) > 10
    for path in lake_files:
        assert MARK not in path.read_bytes() and not re.search("zaphod", str(path), re.I), path
        # Nor where a text encoding or a compressed column would hide it.
        assert MARK.lower() not in path.read_bytes().lower()
        assert "Zaphod".encode("utf-16-le") not in path.read_bytes()
    import pyarrow.parquet

    assert "Zaphod" not in str(pyarrow.parquet.read_table(output / "index.parquet").to_pylist())
