"""CSVs of many findings, in the forms of CheXpert, NIH, VinDr-CXR and PadChest."""

import contextlib
import io
import random
from collections import Counter

import pytest
from makers import mutations

from lake import InputError, Reject
from lake.labels import columns, finding_choice, findings, tables

ALL = ("all",)
CHEXPERT = """Path,Sex,Age,No Finding,Edema,Lung Lesion,Support Devices
p1/s1/v1.jpg,1,68,1.0,,,
p1/s2/v1.jpg,0,87,,-1.0,1.0,
p2/s1/v1.jpg,0,90,,0.0,,-1.0
p3/s1/v1.jpg,1,40,,,,
"""
NIH = """Image Index,Finding Labels,Follow-up #,Patient ID
1_000.png,Mass,0,1
1_001.png,Mass|Effusion,1,1
2_000.png,No Finding,0,2
3_000.png,Hernia,0,3
4_000.png,,0,4
"""
VINDR = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
a,No finding,14,R1,,,,
a,No finding,14,R2,,,,
b,Nodule/Mass,8,R1,1,1,9,9
b,Nodule/Mass,8,R1,5,5,9,9
b,ILD,5,R2,1,1,9,9
b,Nodule/Mass,8,R3,1,1,9,9
c,ILD,5,R1,1,1,9,9
c,No finding,14,R2,,,,
"""


def read(text: str | bytes, names=ALL, policies: dict | None = None, earlier=(), **choice):
    """The Layout of a CSV, checked as a conversion does, its rows by image, and their counts."""
    data = text.encode() if isinstance(text, str) else text

    def open_file():
        return contextlib.nullcontext(io.BytesIO(data))

    choice = columns.ColumnChoice(findings=names, **choice)
    with open_file() as file:
        layout = columns.layout(file, "x.csv", choice)
    layout = finding_choice.resolve(open_file, "x.csv", layout, names, earlier)
    layout = columns.replace(layout, **(policies or {}))
    rows, counts = {}, Counter()
    with open_file() as file:
        for image_id, row in findings.read(file, layout, counts):
            rows.setdefault(image_id, []).append(row)
    return layout, rows, counts


def values(text: str, names=ALL, rule: str = "any", **policies) -> dict[str, tuple[int, ...]]:
    """Image id -> the values of its findings; images of which nothing is said are left out."""
    layout, rows_by_id, _ = read(text, names, policies)
    united = {}
    for image_id, rows in rows_by_id.items():
        telling = [row for row in rows if not tables.is_silent(row, "findings", "reject")]
        if telling:
            united[image_id] = findings.unite(telling, layout.findings, rule).findings
    return united


def test_a_column_per_finding():
    layout, _, counts = read(CHEXPERT)
    assert layout.findings == ("Edema", "Lung Lesion", "Support Devices")
    assert counts == {"uncertain_cells": 2, "unmentioned_cells": 8, "readers": 0}
    by_default = {
        "p1/s1/v1.jpg": (0, 0, 0),
        "p1/s2/v1.jpg": (-1, 1, 0),
        "p2/s1/v1.jpg": (0, 0, -1),
        "p3/s1/v1.jpg": (0, 0, 0),
    }
    assert values(CHEXPERT) == by_default
    assert values(CHEXPERT, uncertain="zeros")["p1/s2/v1.jpg"] == (0, 1, 0)
    assert values(CHEXPERT, uncertain="ones")["p1/s2/v1.jpg"] == (1, 1, 0)
    # An image without a finding may have devices, of which its row says nothing; of the last
    # image nothing is said at all.
    assert values(CHEXPERT, unmentioned="ignore") == {
        "p1/s1/v1.jpg": (0, 0, -1),
        "p1/s2/v1.jpg": (-1, 1, -1),
        "p2/s1/v1.jpg": (0, -1, -1),
    }


def test_findings_are_those_that_are_named_in_their_order():
    layout, rows, _ = read(CHEXPERT, ("support devices", "EDEMA"))
    assert layout.findings == ("Support Devices", "Edema")
    assert values(CHEXPERT, ("support devices", "EDEMA"))["p2/s1/v1.jpg"] == (-1, 0)
    assert values(CHEXPERT, ("No Finding",))["p1/s1/v1.jpg"] == (1,)
    assert values(NIH, ("effusion", "Mass"))["1_001.png"] == (1, 1)
    assert values(NIH, ("effusion", "Mass"))["3_000.png"] == (0, 0)
    assert values(NIH, ("No Finding",)) == {
        "1_000.png": (0,),
        "1_001.png": (0,),
        "2_000.png": (1,),
        "3_000.png": (0,),
    }


def test_a_csv_that_continues_a_lake_may_name_fewer_findings():
    earlier = ("Mass", "Hernia", "Effusion", "Edema")
    assert read(NIH, earlier=earlier)[0].findings == earlier
    assert read(NIH, ("edema", "mass"), earlier=earlier)[0].findings == ("Edema", "Mass")
    # Another name is one more: a conversion with other findings says so, or refuses.
    assert read(NIH, earlier=earlier[:2])[0].findings == ("Effusion", "Hernia", "Mass")
    assert read("id,labels\nx,No Finding\n", earlier=earlier)[0].findings == earlier
    text = "id,Edema,Mass,Note\nx,1,,old\n"
    assert read(text)[0].findings == ("Edema",)
    assert read(text, earlier=("Mass", "Edema"))[0].findings == ("Mass", "Edema")
    assert read(text, earlier=("Mass", "Edema", "Hernia"))[0].findings == ("Edema",)
    assert read(text, earlier=("Mass",))[0].findings == ("Edema",)


def test_names_in_one_column():
    layout, _, counts = read(NIH)
    assert layout.findings == ("Effusion", "Hernia", "Mass") and not counts["unmentioned_cells"]
    assert values(NIH) == {
        "1_000.png": (0, 0, 1),
        "1_001.png": (1, 0, 1),
        "2_000.png": (0, 0, 0),
        "3_000.png": (0, 1, 0),
    }  # of the last image nothing is said
    padchest = NIH.replace("Finding Labels", "Labels").replace("No Finding", "['normal']")
    padchest = padchest.replace("Mass|Effusion", "\"['Mass', 'Effusion']\"")
    padchest = padchest.replace("Hernia", "['Hernia']").replace(",Mass,", ",[Mass],")
    assert values(padchest) == values(NIH)
    # Names that begin far below the header.
    late = "id,labels\n" + "".join(f"{n},\n" for n in range(200)) + "x,Mass\n"
    assert values(late) == {"x": (1,)}
    # Columns of 1 and 0 beside the names are findings where they are named.
    both = NIH.replace("Patient ID", "Fracture").replace(",4\n", ",-1\n").replace(",3\n", ",0\n")
    both = both.replace(",2\n", ",0\n")
    assert values(both, ("Fracture",))["1_000.png"] == (1,)
    assert read(both)[0].findings == ("Effusion", "Hernia", "Mass")


def test_rows_of_several_readers():
    layout, rows, counts = read(VINDR)
    assert layout.findings == ("ILD", "Nodule/Mass") and counts["readers"] == 3
    assert values(VINDR) == {"a": (0, 0), "b": (1, 1), "c": (1, 0)}
    # Of two readers one is no majority, and no minority.
    assert values(VINDR, rule="majority") == {"a": (0, 0), "b": (0, 1), "c": (-1, 0)}
    # Without their column all rows are one reader's.
    without = VINDR.replace("rad_id", "x").split("c,ILD")[0]
    assert values(without) == {"a": (0, 0), "b": (1, 1)}
    assert values(without, rule="majority") == values(without)
    # The same with a column per finding.
    text = "image_id,rad_id,ILD,Mass\na,R1,1,0\na,R2,0,0\na,R3,1,-1\nb,R1,0,-1\nb,R2,1,\n"
    assert values(text) == {"a": (1, 0), "b": (1, 0)}
    assert values(text, rule="majority") == {"a": (1, 0), "b": (-1, 0)}


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("id,A,B\nx,1,0\nx,0,0\n", "conflicting-labels", "row 2, 3: A is present and absent"),
        ("id,A,B\nx,1,z\n" + "y,1,0\n" * 20, "class-not-0-or-1", "row 2: B is 'z', expected"),
        ("id,A,B\ny,1,1\nx,1\n", "row-without-value", "row 3 ends before its label"),
        (
            "id,labels\nx,Mass|No Finding\n",
            "conflicting-labels",
            "row 2: 'Mass|No Finding' says that there is no finding, and names one",
        ),
        (
            "id,labels\nx,No Finding\nx,Mass\n",
            "conflicting-labels",
            "row 2, 3: Mass is present and absent",
        ),
    ],
)
def test_rows_that_contradict_themselves_are_rejects(text, reason, message):
    layout, rows, _ = read(text)
    with pytest.raises(Reject) as caught:
        findings.unite(rows["x"], layout.findings, "any")
    assert caught.value.reason == reason and message in caught.value.message


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (CHEXPERT, ("Edema", "Mass"), "no column 'Mass'; its columns are Sex, Age, No Finding"),
        (CHEXPERT, ("Edema", "edema"), "one is named twice"),
        (CHEXPERT, ("Age",), "the column 'Age' does not hold 1, 0, -1 or nothing"),
        (NIH, ("Mass", "Edema"), "no 'Edema'; it names Effusion, Hernia, Mass"),
        ("id,A,A\nx,1,0\n", ALL, "two columns are called 'A'"),
        ("id,note,x\nx,good,4\n", ALL, "no column holds 1, 0, -1 or nothing"),
        ("id,labels\nx,No Finding\n", ALL, "no row names a finding"),
        ("ImageId,EncodedPixels\nx,1 2\n", ALL, "has run lengths, and a lake of findings"),
        (
            "id,report\n" + "".join(f"{n},text {n}\n" for n in range(300)),
            ALL,
            "no column holds 1, 0, -1 or nothing",
        ),
        (
            "id,labels\n" + "".join(f"{n},text {n}\n" for n in range(300)),
            ALL,
            "x.csv has 300 findings, such as text 0, text 1",
        ),
        ("name,A\nx,1\n", ALL, "no known columns in its first row"),
    ],
)
def test_files_without_such_findings_say_what_they_have(text, names, message):
    with pytest.raises(InputError) as caught:
        read(text, names)
    assert message in str(caught.value)


def test_a_column_is_told_by_all_its_rows():
    """A finding that is rare, and a column of numbers that begins with 1 and 0."""
    rows = [f"i{n},{n % 2 if n < 200 else n},{'1' if n == 900 else ''},," for n in range(1000)]
    text = "\n".join(["id,count,Hernia,Never,Note", *rows]) + "\n"
    layout, _, counts = read(text)
    assert layout.findings == ("Hernia",) and counts["unmentioned_cells"] == 999
    assert read(text, ("Hernia", "Never"))[0].findings == ("Hernia", "Never")


@pytest.mark.parametrize("text", [CHEXPERT, NIH, VINDR], ids=["columns", "names", "readers"])
def test_a_damaged_csv_gives_labels_or_errors_that_are_meant(text):
    rng, ends = random.Random(text), Counter()
    for number in range(150):
        data = mutations.labels(text.encode(), rng)
        try:
            layout, rows_by_id, _ = read(
                data, policies={"unmentioned": ("zeros", "ignore")[number % 2]}
            )
        except (InputError, tables.csv.Error) as error:
            assert len(str(error)) < 1000
            ends[type(error).__name__] += 1
            continue
        for rows in rows_by_id.values():
            telling = [row for row in rows if not tables.is_silent(row, "findings", "reject")]
            try:
                label = telling and findings.unite(telling, layout.findings, "majority")
            except Reject as reject:
                assert len(reject.message) < 1000
                ends[reject.reason] += 1
                continue
            ends["label" if label else "silent"] += 1
            if label:
                assert len(label.findings) == len(layout.findings)
                assert set(label.findings) <= {1, 0, -1} and not label.has_mask
                assert label.label == findings.label_of(label.findings)
    assert {"label", "InputError"} <= ends.keys(), ends
    assert ends["label"] > 150, ends


def test_a_row_in_an_open_quotation_is_not_lost():
    text = 'id,A,Note\nx,1,"begins\ny,0,here\nz,1,and ends"\n'
    with pytest.raises(tables.csv.Error, match="row 2: a quotation begins in it"):
        read(text)
