"""Label CSVs as Excel, pandas and the segmentation challenges write them."""

import contextlib
import csv
import io

import pytest

from lake import InputError, Reject
from lake.labels import class_choice, columns, tables

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252")


def read(data: str | bytes, encoding: str = "utf-8", **choice) -> tuple[columns.Layout, list]:
    """The Layout and the rows of a CSV, checked as a conversion does."""
    data = data.encode(encoding) if isinstance(data, str) else data
    layout = columns.layout(io.BytesIO(data), "labels.csv", columns.ColumnChoice(**choice))
    class_choice.check(lambda: contextlib.nullcontext(io.BytesIO(data)), "labels.csv", layout)
    return layout, list(tables.read(io.BytesIO(data), layout))


def labels(data: str | bytes, encoding: str = "utf-8", **choice) -> dict[str, tuple[int, str]]:
    """(label, run lengths) of each image of 8 x 8 in a CSV of absolute texts."""
    layout, rows = read(data, encoding, **choice)
    by_id = {}
    for image_id, row in rows:
        by_id.setdefault(image_id, []).append(row)
    united = {
        name: tables.unite(rows, layout.kind, 8, 8, "absolute") for name, rows in by_id.items()
    }
    return {name: (label.label, label.rle) for name, label in united.items()}


TWO = {"a": (0, "-1"), "b": (1, "1 2")}  # what these CSVs say


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_delimiters_encodings_and_line_ends(encoding, delimiter, line_end):
    for rows in (
        ["ImageId,Note,EncodedPixels", "a,é,-1", "b,Müller,2 2"],
        ["a,-1", "b,2 2"],
        [",ImageId,EncodedPixels", "0,a,", "1,b,2 2"],  # the index of pandas
        ['"ImageId" , "EncodedPixels"', '"a" , ""', ' "b","2 2"'],
    ):
        text = line_end.join(row.replace(",", delimiter) for row in rows)
        assert labels(text, encoding) == TWO
        assert labels(text + line_end, encoding) == TWO
    assert labels(f"sep={delimiter}{line_end}{text}", encoding) == TWO  # Excel's own line


def test_ids_in_windows_1252_are_not_lost():
    text = "ImageId,Class\nMüller,1\nZoë,0\n"
    for encoding in ("utf-8", "cp1252", "utf-16"):
        assert [name for name, _ in read(text, encoding)[1]] == ["Müller", "Zoë"]


@pytest.mark.parametrize(
    "nothing",
    [
        *("", "-1", " -1 ", "-1.0", "-1,0", "NaN", "nan", "NULL", "null", "None", "NA", "N/A"),
        *("n/a", "<NA>", "#N/A", "[]", "[-1]"),
    ],
)
def test_every_way_to_write_no_lesion(nothing):
    for text in (f"ImageId;EncodedPixels\na;{nothing}\nb;2 2\n", f"a;{nothing}\nb;2 2\n"):
        if "[" not in nothing or "ImageId" in text:
            assert labels(text) == TWO
    assert labels("ImageId,EncodedPixels\na,[]\nb,'[2, 2]'\n".replace("'", '"')) == TWO


@pytest.mark.parametrize(
    "pair",
    ["0,1", "0.0,1.0", "0e0,1e0", "-0,+1", "False,True", "FALSE,TRUE", "no,yes", "N,Y", "f,t"]
    + ["negative,Positive"],
)
def test_every_way_to_write_a_class(pair):
    none, lesion = pair.split(",")
    for header in ("ImageId,Class", "image_id,label", "Image Index,Target", ",id,positive"):
        row = ",".join(["0"] * header.startswith(",") + ["{}", "{}"])
        text = "\n".join([header, row.format("a", none), row.format("b", lesion)])
        assert labels(text) == {"a": (0, "-1"), "b": (1, "-1")}
    assert labels("Image;Class\na;0,0\nb;1,0\n") == {"a": (0, "-1"), "b": (1, "-1")}
    assert labels("a;0,0\nb;1,0\n") == {"a": (0, "-1"), "b": (1, "-1")}


def test_a_class_that_is_not_known_is_no_negative():
    text = "ImageId,Class\na,\nb,nan\nc,-1\nd,1\ne,0\n" + "".join(f"f{n},0\n" for n in range(90))
    rows = dict(read(text)[1])
    for policy in ("reject", "negative", "keep"):
        silent = [name for name in "abcde" if tables.is_silent(rows[name], "class", policy)]
        assert silent == (["a", "b", "c"] if policy == "keep" else ["a", "b"])
    with pytest.raises(Reject, match="row 4: class '-1', .* --unlabelled keep"):
        tables.unite([rows["c"]], "class", 8, 8, "relative")


@pytest.mark.parametrize(
    ("header", "a_and_b"),
    [
        ("ImageId, EncodedPixels", ("a,-1", "b,2 2")),  # SIIM
        ("img,rle_mask", ("a,", "b,2 2")),  # Carvana
        ("id,rle_mask", ("a,", "b,2 2")),  # TGS salt
        ("ImageId,EncodedPixels", ("a,", "b,2 2")),  # Airbus, Data Science Bowl 2018
        ("id,encoding", ("a,", "b,2 2")),  # HuBMAP
        ("id,rle", ("a,", "b,2 2")),
        ("id,annotation,width,height", ("a,,8,8", "b,2 2,8,8")),  # Sartorius
        ("Id,Predicted", ("a,", "b,2 2")),  # Vesuvius
        ("image_id,Image Path,run_lengths", ("a,x,", "b,y,2 2")),
        ("filename;MaskRLE", ("a;nan", "b;2 2")),
    ],
)
def test_headers_of_segmentation_challenges(header, a_and_b):
    assert labels("\n".join([header, *a_and_b])) == TWO
    reordered = [";".join(reversed(line.replace(";", ",").split(","))) for line in a_and_b]
    header = ";".join(reversed(header.replace(";", ",").split(",")))
    assert labels("\n".join([header, *reordered])) == TWO


def test_subject_and_image_are_one_id():  # ultrasound nerve segmentation: 1_1.tif
    text = "subject,img,pixels\n1,1,\n1,2,2 2\n"
    assert labels(text) == {"1_1": (0, "-1"), "1_2": (1, "1 2")}


CLASSES = {
    "Severstal": "ImageId_ClassId,EncodedPixels\na.jpg_1,2 2\na.jpg_2,\nb.jpg_1,\nb.jpg_2,5 1\n",
    "Severstal 2": "ImageId,ClassId,EncodedPixels\na.jpg,1,2 2\nb.jpg,2,5 1\n",
    "clouds": "Image_Label,EncodedPixels\na.jpg_1,2 2\na.jpg_2,nan\nb.jpg_2,5 1\n",
    "UW-Madison": "id,class,segmentation\na.jpg,1,2 2\na.jpg,2,\nb.jpg,2,5 1\nb.jpg,1,\n",
    "iMaterialist": "ImageId,EncodedPixels,Height,Width,ClassId\na.jpg,2 2,8,8,1\nb.jpg,5 1,8,8,2",
}


@pytest.mark.parametrize("name", CLASSES)
def test_run_lengths_of_several_classes_are_never_merged_in_silence(name):
    text = CLASSES[name]
    with pytest.raises(InputError, match="run lengths of several classes: 1, 2; .* --classes"):
        read(text)
    one, other = (1, "1 2"), (1, "4 1")
    assert labels(text, classes=("1",)) == {"a.jpg": one, "b.jpg": (0, "-1")}
    assert labels(text, classes=("2.0",)) == {"a.jpg": (0, "-1"), "b.jpg": other}
    assert labels(text, classes=("1", "2")) == {"a.jpg": one, "b.jpg": other}
    assert labels(text, classes=("all",)) == {"a.jpg": one, "b.jpg": other}
    with pytest.raises(InputError, match="has no '3'; its classes are 1, 2"):
        read(text, classes=("1", "3"))


def test_findings_are_positive_only_where_the_user_says_so():
    text = (
        "Image Index,Finding Labels,Follow-up #\na.png,No Finding,0\nb.png,Mass|Effusion,0\n"
        "c.png,Effusion,1\n"
    )
    with pytest.raises(InputError, match="classes other than 0 and 1: Effusion, Mass, No Finding"):
        read(text)
    positive = (1, "-1")
    assert labels(text, classes=("mass",)) == {
        "a.png": (0, "-1"),
        "b.png": positive,
        "c.png": (0, "-1"),
    }
    assert labels(text, classes=("all",))["a.png"] == (0, "-1")
    assert labels(text, classes=("all",))["c.png"] == positive
    with pytest.raises(InputError, match="has no 'mas'"):
        read(text, classes=("Mas",))
    with pytest.raises(InputError, match="no column of classes; leave --classes out"):
        read("ImageId,EncodedPixels\na,1 2\n", classes=("1",))


def test_a_class_in_any_row_of_an_image_is_one():
    text = "image_id,class_name,x_min\na,Mass,1\na,Nodule,2\nb,No finding,\n"
    for chosen, expected in (("Mass", 1), ("nodule", 1), ("all", 1)):
        result = labels(text, classes=(chosen,))
        assert result == {"a": (expected, "-1"), "b": (0, "-1")}


def test_columns_are_chosen_by_name():
    text = "Path,Sex,No Finding,Pneumothorax\nx/1.jpg,F,1.0,\nx/2.jpg,M,,1.0\nx/3.jpg,M,,-1.0\n"
    with pytest.raises(InputError, match="no known columns .*comma .*--label_column"):
        read(text)
    _, rows = read(text, label="pneumothorax")
    assert [(name, row.value) for name, row in rows] == [
        ("x/1.jpg", ""),
        ("x/2.jpg", "1.0"),
        ("x/3.jpg", "-1.0"),
    ]
    runs = "Case,Lesion\na,-1\nb,2 2\n"
    assert labels(runs, image_id="case", label="LESION") == TWO
    for choice in ({"image_id": "Fall"}, {"label": "Sex?"}):
        with pytest.raises(InputError, match=f"no column '{next(iter(choice.values()))[:3]}"):
            read(text, **choice)
    with pytest.raises(InputError, match="two columns are called 'Class'"):
        read("ImageId,Class,Class\na,0,1\n")


def test_the_message_names_delimiter_and_encoding():
    with pytest.raises(InputError, match="UTF-16 text with a semicolon between columns"):
        read("Bild;Maske\na;-1\n", "utf-16")
    with pytest.raises(InputError, match="UTF-8 text with a comma between columns"):
        read("Bild,Maske,Seite\na,x,-1\n")


def test_sizes_in_the_csv_are_held_against_the_image():
    text = "id,annotation,width,height\na,2 2,{},{}\n"
    assert labels(text.format(8, 8)) == {"a": (1, "1 2")}
    with pytest.raises(Reject, match="row 2: the mask has 8x9 pixels, the image 8x8"):
        labels(text.format(9, 8))
    assert labels("id,rle,x,y,width,height\na,2 2,1,1,3,4\n") == {"a": (1, "1 2")}  # a box


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('ImageId,Class\n"i0,0\ni1,1\ni2,0\n', 2),  # never closed
        ('ImageId,Class\ni0,0\n"i1,1\n"i2,0\ni3,1\n', 3),  # closed by the next open one
        ('ImageId,Class\ni0,0\ni1,"1\ni2,0\ni3",1\n', 3),
        ('ImageId,EncodedPixels\ni0,"1 2\ni1,3 4\ni2,-1"\n', 2),
        ('ImageId,Class,Note\ni0,0,\ni1,1,"yes\ni2,0,no\ni3,1,yes"\n', 3),
        ('ImageId;Class\n"i0;0\ni1;1\n', 2),
    ],
)
def test_a_quotation_without_an_end_names_its_row(text, row):
    with pytest.raises((InputError, csv.Error), match=f"row {row}: a quotation begins"):
        read(text)


def test_quotations_of_several_lines_are_read():
    text = 'ImageId,Class,Report\na,0,"No effusion,\nno pneumothorax, 1\n"\nb,1,"x ""y"" z"\n'
    assert labels(text) == {"a": (0, "-1"), "b": (1, "-1")}
    assert read(text)[1][1][1].number == 5  # the line in which the row begins
    assert labels('ImageId,EncodedPixels\na,\nb,"2 1\n 3 1"\n') == TWO


def test_decimal_commas_of_nodules():
    text = "seriesuid;coordX;coordY;coordZ;diameter_mm\n1.2;-1,5;2;3e1;4,25\n"
    layout, rows = read(text)
    assert layout.kind == "nodule" and rows[0][1].value == "-1.5 2 3e1 4.25"
