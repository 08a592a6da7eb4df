"""Files of a kind that a source does not read: the message says what they are and what to do."""

import gzip
import io

import numpy as np
import pytest
from makers.images import encoded
from makers.volumes import volume, write_dicom_slices, write_volume

from lake import Reject
from lake.scan import ReaderSettings, Storage
from lake.sources import reader
from lake.sources.names import SOURCES

IMAGE_KINDS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")


def message(source: str, data: bytes, path: str) -> str:
    with pytest.raises(Reject) as caught:
        reader.read_headers(source, io.BytesIO(data), path, len(data), "name", "reject")
    assert caught.value.message.startswith(f"{path}: ")
    return caught.value.message


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    """{path: bytes} of a file of each kind that is read."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    contents = {f"a.{kind.lower()}": encoded(grey, kind) for kind in IMAGE_KINDS}
    for suffix in ("mhd", "mha", "nii", "nii.gz", "nrrd", "nhdr"):
        path = write_volume(volume(np.zeros((2, 8, 8), np.int16)), tmp_path, f"a.{suffix}")
        contents[path.name] = path.read_bytes()
    contents["a.dcm"] = write_dicom_slices(np.zeros((2, 8, 8), int), tmp_path)[0].read_bytes()
    return contents


def test_every_kind_names_the_source_that_reads_it(files):
    sources = {f"a.{kind.lower()}": ("images",) for kind in IMAGE_KINDS}
    sources["a.dcm"] = ("dicom", "metaimage")
    for path, data in files.items():
        right = sources.get(path, ("metaimage",))
        for source in SOURCES:
            if source in right:
                header = reader.read_headers(
                    source, io.BytesIO(data), path, len(data), "name", "reject"
                )
                assert header
            else:
                words = message(source, data, path)
                assert f"--source {right[0]} reads it" in words, words
                assert f"--source {source} does not" in words and "--frames" not in words


def test_networks_have_no_source_to_choose(files):
    for is_ct, path, words in (
        (False, "a.nii.gz", "a NIfTI volume; these networks learnt from single images"),
        (False, "a.mhd", "a MetaImage header; these networks learnt from single images"),
        (True, "a.png", "a PNG image; these networks learnt from CT volumes"),
    ):
        settings = ReaderSettings(is_ct, "name", Storage(8, None))
        with pytest.raises(Reject, match=words) as caught:
            reader.read_file(io.BytesIO(files[path]), path, len(files[path]), settings, "")
        assert "--source" not in caught.value.message


@pytest.mark.parametrize("source", SOURCES)
def test_what_nobody_reads_has_a_name(source):
    for data, words in (
        (b"", "an empty file"),
        (b"%PDF-1.7 and so on", "a PDF"),
        (b"PK\3\4" + bytes(99), "unpack it"),
        (gzip.compress(b"anything"), "unpack it"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "save it as PNG or TIFF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP image"),
        (b"<!doctype html><p>Forbidden", "was the download refused?"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x5c\1\0\0" + bytes(344), "save both as one .nii"),
    ):
        assert words in message(source, data, "folder/a.file")


def test_a_name_tells_a_volume(files):
    words = message("metaimage", files["a.mha"], "a.txt")
    assert words == "a.txt: a MetaImage header; end its name in .mhd or .mha"


def test_a_text_that_begins_as_a_bitmap_is_none():
    assert "BMP" not in message("dicom", b"BMI,age\n22,40\n" * 9, "a.csv")
