"""A multi-label lake from its CSV to its checks: what it says is what the CSV says."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from makers import findings
from test_plan import options_with

from beam import convert as converter
from beam.conversion import finished, labelling, summary
from lake import InputError
from lake.__main__ import main
from lake.inspection import sheet, verify
from lake.labels.findings import label_of
from lake.records import example, index, manifest, tfrecord

NAMES = list(findings.NAMES)
STATES = {1: "positives", 0: "negatives", -1: "unknown"}


def records(folder: Path) -> dict[str, tuple[str, dict]]:
    """Image id -> (split, fields) of the records of a multi-label lake."""
    fields_by_id = {}
    for path in folder.glob("*.tfrecord-*"):
        with path.open("rb") as file:
            for record, _ in tfrecord.records(file):
                fields = example.decode(record, len(NAMES))
                fields_by_id[fields["image_id"].decode()] = (
                    path.name.split("-")[1].split(".")[0],
                    fields,
                )
    return fields_by_id


@pytest.fixture
def copy(findings_lake, tmp_path) -> Path:
    """A lake to damage."""
    return Path(shutil.copytree(findings_lake, tmp_path / "phantoms" / "1.0.0"))


def test_records_index_and_manifest_have_what_the_csv_says(findings_lake, phantoms):
    expected, content = findings.values_of(phantoms), manifest.load(str(findings_lake))
    assert (content["schema_version"], content["findings"]) == (2, NAMES)
    assert manifest.findings(content) == NAMES
    fields_by_id, counts = records(findings_lake), {}
    assert fields_by_id.keys() == expected.keys()
    for image_id, (split, fields) in fields_by_id.items():
        values = expected[image_id]
        label = 1 if 1 in values else 0 if set(values) == {0} else -1
        assert fields["findings"] == values
        assert (fields["label"], fields["has_mask"], fields["lesion_px"]) == (label, 0, -1)
        for name, value in zip(NAMES, values, strict=True):
            names = counts.setdefault(
                split, {name: dict.fromkeys(manifest.FINDING_STATES, 0) for name in NAMES}
            )
            names[name][STATES[value]] += 1
    assert content["statistics"]["findings"] == counts
    assert {len(fields_by_id), 40} == {content["counts"]["records"]}
    rows = pyarrow.parquet.read_table(findings_lake / manifest.INDEX)
    in_index = dict(zip(rows["image_id"].to_pylist(), rows["findings"].to_pylist(), strict=True))
    assert in_index == {image_id: list(values) for image_id, values in expected.items()}
    cells = Counter(cell for row in findings.cells_of(phantoms).values() for cell in row)
    assert content["counts"]["uncertain_cells"] == cells[-1] > 0
    assert content["counts"]["unmentioned_cells"] == cells[None] > 0
    options = content["options"]
    assert [options[name] for name in ("findings", "uncertain", "unmentioned", "readers")] == [
        *(NAMES, "ignore", "zeros", "any")
    ]


def test_a_lake_without_findings_has_no_word_of_them(lake):
    content = manifest.load(str(lake))
    assert content["schema_version"] == 1 and manifest.findings(content) == []
    text = (lake / manifest.MANIFEST).read_text() + (lake / manifest.FEATURES).read_text()
    assert not [word for word in ("findings", "uncertain", "readers") if word in text]
    assert index.read(lake).column_names == index.SCHEMA.names


def test_the_table_says_what_became_of_cells(findings_lake):
    content = manifest.load(str(findings_lake))
    lines = summary.table(content).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("finding "))
    for name, line in zip(NAMES, lines[start + 1 :], strict=False):
        parts = [split[name] for split in content["statistics"]["findings"].values()]
        numbers = [sum(part[state] for part in parts) for state in manifest.FINDING_STATES]
        assert line.split() == [*name.split(), *map(str, numbers)]
    counts = content["counts"]
    assert f"{counts['uncertain_cells']} cells of the labels say -1: unknown (--uncertain" in str(
        lines
    )
    assert f"{counts['unmentioned_cells']} cells of the labels are empty: absent (--unm" in str(
        lines
    )
    assert summary.finding_warnings(
        {"train": {"A": {"positives": 1}, "B": {"positives": 0}}, "val": {"A": {"positives": 2}}}
    ) == ["no image of train has B"]


def test_the_same_command_writes_nothing(findings_lake, phantoms, convert, tmp_path, capsys):
    output = Path(shutil.copytree(findings_lake, tmp_path / "phantoms" / "1.0.0"))
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    labels, splits = (
        findings_lake.parents[1] / "chexpert.csv",
        "--splits=train=0.6,val=0.2,test=0.2",
    )
    convert(phantoms / "dicom" / "*.dcm", labels, output, "--findings=all", splits)
    assert "nothing was written" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in output.iterdir() if path.is_file()} == before


def test_a_refusal_names_other_findings_and_policies(findings_lake, lake):
    content, binary = manifest.load(str(findings_lake)), manifest.load(str(lake))
    names = tuple(NAMES)
    for old_content, changes, expected in (
        (content, {"findings": names}, []),
        (content, {"findings": names[:1]}, [f"--findings {NAMES[:1]} instead of {NAMES}"]),
        (content, {}, [f"--findings none instead of {NAMES}"]),
        (binary, {"findings": names}, [f"--findings {NAMES} instead of none"]),
        (
            *(content, {"findings": names, "uncertain": "ones"}),
            ["--uncertain ones instead of ignore"],
        ),
    ):
        choice = options_with(splits="train=0.6,val=0.2,test=0.2", **changes)
        differences = finished.option_changes(old_content, 8, choice)
        skipped = ("--dataset", "--version", "--deidentify", "--source")
        assert [text for text in differences if not text.startswith(skipped)] == expected


def test_verify_and_show_know_the_findings(findings_lake, capsys, tmp_path):
    assert main(["verify", str(findings_lake)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ok"
    content = manifest.load(str(findings_lake))
    assert main(["show", str(findings_lake), "--sheet", str(tmp_path / "sheet.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("finding "))
    splits = [*content["counts"]["splits"]]
    for name, line in zip(NAMES, lines[start + 1 :], strict=False):
        parts = [content["statistics"]["findings"][split][name] for split in splits]
        expected = [part[state] for part in parts for state in manifest.FINDING_STATES]
        assert line.split() == [*name.split(), *map(str, expected)]
    fields = next(fields for _, fields in records(findings_lake).values() if fields["label"] == 1)
    names = [name for name, value in zip(NAMES, fields["findings"], strict=True) if value == 1]
    texts = [text for text, _ in sheet.caption(fields, "val", findings=NAMES)]
    assert "val · " + ", ".join(names) in texts
    many = {"findings": (1,) * 30}
    [line] = [
        text
        for text, _ in sheet.caption(
            fields | many, "val", findings=[f"Finding {n}" for n in range(30)]
        )
        if text.startswith("val")
    ]
    assert line.startswith("val · Finding 0, Finding 1") and line.endswith(" +27")


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ("a finding of the index", {"index", "counts"}),
        ("the length of a row of the index", {"index"}),
        ("a count of the manifest", {"counts"}),
        ("the label of a record", {"findings", "index", "shard-sha256"}),
        ("a state of a record", {"findings", "index", "shard-sha256"}),
    ],
)
def test_verify_sees_other_findings(copy, change, kinds):
    content = manifest.load(str(copy))
    if "index" in change:
        rows = index.read(copy).to_pylist()
        values = rows[0]["findings"]
        rows[0]["findings"] = (
            values[:2] if "length" in change else [1 - abs(values[0]), *values[1:]]
        )
        table = index.table(rows, index.schema(3).names)
        pyarrow.parquet.write_table(table, copy / manifest.INDEX)
    elif "manifest" in change:
        content["statistics"]["findings"]["train"][NAMES[0]]["positives"] += 1
        (copy / manifest.MANIFEST).write_text(json.dumps(content))
    else:
        path = copy / content["shards"][0]["name"]
        with path.open("rb") as file:
            parts = [example.decode(record, 3) for record, _ in tfrecord.records(file)]
        parts[0] |= (
            {"label": 1 - abs(parts[0]["label"])} if "label" in change else {"findings": (2, 0, 0)}
        )
        path.write_bytes(b"".join(p for f in parts for p in tfrecord.frame(example.encode(f))))
    problems, _ = verify.verify(copy, content, decodes_pixels=False)
    assert set(problems.counts) - {"shard-bytes"} == kinds


def test_without_a_row_an_image_has_none_or_unknown_findings(findings_lake, phantoms):
    content = manifest.load(str(findings_lake))
    assert [label_of(values) for values in ((0, 0), (0, -1), (-1, 1), (-1, -1))] == [0, -1, 1, -1]
    label = labelling.tables.label_without_rows
    assert label("negative", "findings", "", 3).findings == (0, 0, 0)
    unknown = label("keep", "findings", "", len(content["findings"]))
    assert (unknown.label, unknown.findings) == (-1, (-1, -1, -1))
    with pytest.raises(labelling.Reject, match="why"):
        label("reject", "findings", "why", 3)


def test_new_images_and_labels_are_appended(findings_lake, phantoms, convert, tmp_path):
    """A CSV of three images, which never mentions the second finding, continues the lake."""
    base = Path(shutil.copytree(findings_lake, tmp_path / "phantoms" / "1.0.0"))
    values = findings.values_of(phantoms)
    old_id = next(image_id for image_id in sorted(values) if values[image_id][0] == 0)
    images = tmp_path / "images"
    images.mkdir()
    for name in (old_id, "new0", "new1"):
        shutil.copy(phantoms / "dicom" / f"{old_id}.dcm", images / f"{name}.dcm")
    head = findings.chexpert_csv(phantoms).partition("\n")[0]
    cells = {old_id: "1.0,,", "new0": "-1.0,,1.0", "new1": ",,"}
    rows = [f"{name},1,50,Frontal,AP,,{text}" for name, text in cells.items()]
    (tmp_path / "new.csv").write_text("\n".join([head, *rows]) + "\n")
    splits = "--splits=train=0.6,val=0.2,test=0.2"
    content = convert(
        images / "*.dcm", tmp_path / "new.csv", base, "--findings=all", splits, "--append"
    )
    folder = base.with_name("1.1.0")
    assert (content["version"], content["findings"]) == ("1.1.0", NAMES)
    before, after = records(base), records(folder)
    expected = {old_id: (1, 0, 0), "new0": (-1, 0, 1), "new1": (0, 0, 0)}
    assert {name: after[name][1]["findings"] for name in expected} == expected
    assert {after[name][0] for name in expected} == {before[old_id][0]}  # one patient
    for image_id in before.keys() - {old_id}:
        assert str(after[image_id]) == str(before[image_id])  # NaN differs from itself
    problems, num_records = verify.verify(folder, manifest.load(str(folder)))
    assert (problems.lines(), num_records) == ([], 42)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("id,A,B\nx,1,0\n", ["--classes=A"], "--findings and --classes: expected one of them"),
        ("id,A\nx,1\n", ["--rle=absolute"], "--rle is for run lengths"),
        ("id,labels\nx,Mass\n", ["--uncertain=ones"], "--uncertain is for a column per finding"),
        ("id,labels\nx,Mass\n", ["--unmentioned=ignore"], "--unmentioned is for a column per"),
        ("id,A\nx,1\n", ["--source=metaimage"], "--source metaimage takes a nodule CSV"),
        (
            "ImageId,EncodedPixels\nx,1 2\n",
            [],
            "has run lengths, and a lake of findings has no masks",
        ),
    ],
)
def test_options_that_do_not_go_together(text, options, message, phantoms, tmp_path, convert):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        convert(
            phantoms / "dicom" / "*.dcm",
            tmp_path / "x.csv",
            tmp_path / "x" / "1.0.0",
            "--findings=all",
            *options,
        )


def test_findings_need_a_csv(phantoms, tmp_path):
    common = [f"--images={phantoms}/dicom/*.dcm", f"--output={tmp_path}/x/1.0.0"]
    for options, message in (
        (["--findings=all", "--unlabelled=keep"], "--findings needs --labels"),
        (["--uncertain=ones", "--unlabelled=keep"], "--uncertain needs --findings"),
        (["--readers=majority", "--unlabelled=keep"], "--readers needs --findings"),
    ):
        with pytest.raises(InputError, match=message):
            converter.run([*common, *options])
    (tmp_path / "labels.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(InputError, match="--findings is for a label CSV"):
        converter.run([*common, f"--labels={tmp_path}/labels.json", "--findings=all"])


def test_rows_per_finding_and_reader_are_converted(phantoms, convert, tmp_path):
    """VinDr-CXR's form, whose rows meet in the pipeline."""
    [first, second, third, *_] = sorted(findings.values_of(phantoms))
    rows = [
        *(f"{first},Mass,R1,1,2", f"{first},ILD,R1,1,2", f"{first},Mass,R2,3,4"),
        *(f"{second},No finding,{reader},," for reader in ("R1", "R2")),
        *(f"{third},ILD,R2,5,6", f"{third},No finding,R1,,"),
    ]
    (tmp_path / "x.csv").write_text("\n".join(["image_id,class_name,rad_id,x_min,y_min", *rows]))
    folder = tmp_path / "x" / "1.0.0"
    for name in (first, second, third):
        shutil.copy(phantoms / "dicom" / f"{name}.dcm", tmp_path / f"{name}.dcm")
    content = convert(
        *(tmp_path / "*.dcm", tmp_path / "x.csv", folder, "--findings=Mass,ILD"),
        *("--splits=train=1", "--readers=majority"),
    )
    assert content["findings"] == ["Mass", "ILD"] and content["counts"]["readers"] == 2
    values = {}
    for path in folder.glob("*.tfrecord-*"):
        with path.open("rb") as file:
            for record, _ in tfrecord.records(file):
                fields = example.decode(record, 2)
                values[fields["image_id"].decode()] = fields["findings"]
    assert values == {first: (1, -1), second: (0, 0), third: (0, -1)}
    assert np.array_equal(index.findings(index.read(folder), 2).sum(axis=0), [1, -2])
