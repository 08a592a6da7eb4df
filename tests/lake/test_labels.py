"""Label CSVs in every spelling that is around."""

import gzip
import io

import pytest

from lake import InputError, Reject
from lake.labels import columns, tables


def read(text: str, encoding: str = "utf-8") -> tuple[columns.Layout, list]:
    data = text.encode(encoding)
    layout = columns.layout(io.BytesIO(data), "labels.csv")
    return layout, list(tables.read(io.BytesIO(data), layout))


@pytest.mark.parametrize(
    "text",
    [
        "ImageId, EncodedPixels\na, -1\nb, 1 2\n",  # stage 1: a space before the second name
        "ImageId,EncodedPixels\na,-1\nb,1 2\n",
        "a,-1\nb,1 2\n",  # the organiser's sample: no header
        "\ufeffa,-1\r\nb,1 2\r\n",  # … and a BOM
        "\ufeffImageId,EncodedPixels\na,-1\n\nb,1 2\n",
        "image_id,rle\na,\nb,1 2\n",  # an empty field is an empty mask
        "EncodedPixels,ImageId\n-1,a\n1 2,b\n",
    ],
)
def test_run_length_spellings(text):
    layout, rows = read(text)
    assert layout.kind == "rle"
    labels_by_id = {
        image_id: tables.unite([row], "rle", 2, 2, "relative") for image_id, row in rows
    }
    assert {name: (label.label, label.rle) for name, label in labels_by_id.items()} == {
        "a": (0, "-1"),
        "b": (1, "1 2"),
    }


@pytest.mark.parametrize(
    "text", ["ImageId,Class\na,0\nb,1\n", "a,0\nb,1\n", "Id, Label\na, 0\nb, 1\n"]
)
def test_class_spellings(text):
    layout, rows = read(text)
    assert layout.kind == "class"
    labels = {image_id: tables.unite([row], "class", 2, 2, "relative") for image_id, row in rows}
    assert {
        name: (label.label, label.has_mask, label.lesion_px) for name, label in labels.items()
    } == {"a": (0, False, -1), "b": (1, False, -1)}


@pytest.mark.parametrize(
    "text", ["", "name,size\na,12kB\n", "a\nb\n", "a,left\nb,right\n", "x,y,z\n1,2,3\n"]
)
def test_unknown_columns_are_an_input_error(text):
    with pytest.raises(InputError, match="labels.csv"):
        read(text)


def test_rows_of_one_image_are_united():
    label = tables.unite([tables.Row(3, "1 2"), tables.Row(2, "2 2 3 1")], "rle", 4, 4, "relative")
    assert (label.rle, label.lesion_px) == ("1 3 3 1", 4)


def test_a_bad_row_is_named():
    with pytest.raises(Reject, match="row 7: .* have 3 numbers") as caught:
        tables.unite([tables.Row(2, "1 2"), tables.Row(7, "1 2 3")], "rle", 4, 4, "relative")
    assert caught.value.reason == "rle-odd-count"


@pytest.mark.parametrize(
    ("values", "reason"), [("01", "conflicting-labels"), ("2", "class-not-0-or-1")]
)
def test_bad_classes(values, reason):
    with pytest.raises(Reject) as caught:
        tables.unite(
            [tables.Row(2 + n, value) for n, value in enumerate(values)], "class", 4, 4, "relative"
        )
    assert caught.value.reason == reason


def test_a_row_that_ends_early_is_no_negative():
    _, rows = read("ImageId,EncodedPixels\na,1 2\nb\n")
    with pytest.raises(Reject, match="row 3 ends before its label"):
        tables.unite([rows[1][1]], "rle", 4, 4, "relative")


def test_long_run_lengths_pass_the_csv_module():
    text = " ".join(["1 1"] * 100_000)
    _, [(_, row)] = read(f"ImageId,EncodedPixels\na,{text}\n")
    assert tables.unite([row], "rle", 1024, 1024, "relative").lesion_px == 100_000


def test_the_challenges_own_file(real_data):
    data = gzip.decompress((real_data / "csv" / "siim-pneumothorax-train-rle.csv.gz").read_bytes())
    _, rows = read(data.decode())
    by_id = {}
    for image_id, row in rows:
        by_id.setdefault(image_id, []).append(row)
    labels = {
        image_id: tables.unite(rows_of_image, "rle", 1024, 1024, "relative")
        for image_id, rows_of_image in by_id.items()
    }
    assert (len(rows), len(labels)) == (12_954, 12_047)
    assert sum(label.label for label in labels.values()) == 2_669
    assert sum(len(rows_of_image) > 1 for rows_of_image in by_id.values()) == 624


def test_nodule_rows_come_as_one_text_of_four_numbers():
    layout, rows = read("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,-1.5,2,3e1,4\n1.3,1,2\n")
    assert layout.kind == "nodule"
    assert [(name, row.value) for name, row in rows] == [("1.2", "-1.5 2 3e1 4"), ("1.3", None)]


def test_the_split_column_is_read_and_must_agree():
    data = b"ImageId,Fold,Class,Split\na,0,1,train\na,0,1,val\nb,0,0,\nc,0,1,my split\nd,0,1,test\n"
    layout = columns.layout(io.BytesIO(data), "x.csv", columns.ColumnChoice(split="split"))
    rows = {}
    for name, row in tables.read(io.BytesIO(data), layout):
        rows.setdefault(name, []).append(row)
    assert tables.split_of(rows["d"]) == "test"
    for name, reason in (("a", "conflicting-splits"), ("b", "no-split"), ("c", "bad-split")):
        with pytest.raises(Reject) as caught:
            tables.split_of(rows[name])
        assert caught.value.reason == reason
    with pytest.raises(InputError, match="no column 'nosuch'"):
        columns.layout(io.BytesIO(data), "x.csv", columns.ColumnChoice(split="nosuch"))


def test_an_empty_row_takes_nothing_from_the_lesion_of_another():
    rows = [tables.Row(3, "1 2"), tables.Row(2, "-1"), tables.Row(4, "")]
    label = tables.unite(rows, "rle", 4, 4, "relative")
    assert (label.label, label.rle, label.lesion_px) == (1, "1 2", 2)


def test_a_mask_image_must_have_the_size_of_its_image():
    row = tables.Row(0, "1 2", size=(4, 5), path="masks/a.png")
    assert tables.unite([row], "rle", 4, 5, "relative").lesion_px == 2
    with pytest.raises(Reject, match="masks/a.png: .* 4x5 pixels, the image 5x4; are its rows"):
        tables.unite([row], "rle", 5, 4, "relative")


def test_bytes_that_are_not_utf8_spoil_their_own_row_only():
    data = b"ImageId,Class\na,1\n\xff\xfe,1\nb,\xff\nc,0\n"
    layout = columns.layout(io.BytesIO(data), "x.csv")
    rows = dict(tables.read(io.BytesIO(data), layout))
    assert rows["a"].value == "1" and rows["c"].value == "0" and len(rows) == 4
    with pytest.raises(Reject):
        tables.unite([rows["b"]], "class", 4, 4, "relative")
