"""`convert --append`: a lake that grows by versions, each of which keeps what the last one had."""

import json
import os
import shutil
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from makers.hospital import Hospital, records
from makers.images import encoded
from makers.marks import exhaustive

from beam import convert as converter
from beam.conversion import earlier_lake, folders, shards, stratify
from beam.running import files as running_files
from lake import InputError, Refused, lock
from lake.inspection import verify
from lake.records import identity, manifest

OPTIONS = ("--splits=train=0.5,val=0.25,test=0.25", "--folds=2", "--unlabelled=keep")
LESION, OTHER = "30 4 20 4", "100 9"


@pytest.fixture(scope="module")
def versions(tmp_path_factory, convert):
    """Return the hospital of a lake, its folder, and the manifests of 1.0.0 and of 1.1.0."""
    root = tmp_path_factory.mktemp("append")
    hospital, lake = Hospital(root / "hospital"), root / "lakes" / "ward"
    for number in range(8):
        label = [LESION, "-1", None, "-1"][number % 4]
        hospital.add(f"i{number}", f"p{number % 6}", label)
    hospital.add("s0", "", StudyInstanceUID="1.9")  # no patient: its study is its group
    first = convert(hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS, "--min_shards=2")
    hospital.labels |= {"i0": OTHER, "i2": LESION}  # one changed, one came later
    for number, patient in enumerate(("p1", "p3", "new", "new", "newer")):
        hospital.add(f"j{number}", patient, LESION if number % 2 else "-1")
    hospital.add("s1", "", LESION, StudyInstanceUID="1.9")
    second = convert(hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS, "--append")
    return hospital, lake, first, second


@pytest.fixture
def copied(versions, tmp_path):
    """Return a hospital and a lake of one version, 1.1.0, to change."""
    hospital, lake = versions[:2]
    copy = shutil.copytree(hospital.folder, tmp_path / "hospital")
    other = Hospital.__new__(Hospital)
    other.folder = copy
    other.patients, other.labels = dict(hospital.patients), dict(hospital.labels)
    shutil.copytree(lake / "1.1.0", tmp_path / "lakes" / "ward" / "1.1.0")
    return other, tmp_path / "lakes" / "ward"


def test_a_version_keeps_splits_folds_and_bytes_and_labels_are_as_they_now_are(versions):
    hospital, lake, first, second = versions
    before, after = records(lake / "1.0.0", first), records(lake / "1.1.0", second)
    assert before.keys() == {"s0", *(f"i{n}" for n in range(8))}
    assert after.keys() == before.keys() | {"s1", *(f"j{n}" for n in range(5))}
    for name, row in before.items():
        assert after[name]["split"] == row["split"]
        assert after[name]["fields"]["fold"] == row["fields"]["fold"]
    changed = {name for name, row in before.items() if after[name]["bytes"] != row["bytes"]}
    assert changed == {"i0", "i2"}
    assert after["i0"]["fields"]["original_rle"] == OTHER.encode()
    assert (before["i2"]["fields"]["label"], after["i2"]["fields"]["label"]) == (-1, 1)
    for version in ("1.0.0", "1.1.0"):
        problems, _ = verify.verify(lake / version, manifest.load(str(lake / version)))
        assert problems.lines() == []
    # A patient is in one split and fold, which verify says too.
    splits = defaultdict(set)
    for name, row in after.items():
        splits[hospital.patients[name]].add((row["split"], row["fields"]["fold"]))
    assert {len(places) for places in splits.values()} == {1} and len(splits) == 9


def test_shards_that_no_label_touches_are_the_files_of_the_earlier_version(versions):
    lake, first, second = versions[1:]
    files = {
        version: {os.stat(lake / version / shard["name"]).st_ino: shard for shard in content}
        for version, content in (("1.0.0", first["shards"]), ("1.1.0", second["shards"]))
    }
    shared = files["1.0.0"].keys() & files["1.1.0"].keys()
    assert len(shared) == second["append"]["shards"]["linked"] == len(first["shards"]) - 2
    for inode in shared:
        assert files["1.0.0"][inode]["sha256"] == files["1.1.0"][inode]["sha256"]
    assert second["append"] == {
        "since": "1.0.0",
        "new": 6,
        "relabelled": 2,
        "labels_without_row": 0,
        "unlisted": 0,
        "shards": {"linked": len(shared), "new": len(second["shards"]) - len(first["shards"])}
        | {"rewritten": 2},
    }
    assert second["earlier_lakes"] == [identity.identity(first)]


def test_records_and_totals_are_those_of_one_conversion(versions, convert, tmp_path):
    hospital, lake, _, second = versions
    whole = convert(hospital.images, hospital.csv(), tmp_path / "ward" / "1.0.0", *OPTIONS)
    expected, actual = records(tmp_path / "ward" / "1.0.0", whole), records(lake / "1.1.0", second)
    for rows in (expected, actual):
        for row in rows.values():
            row["fields"] = repr(row["fields"] | {"fold": 0})  # NaN equals NaN, as text
    assert {n: row["fields"] for n, row in actual.items()} == {
        n: row["fields"] for n, row in expected.items()
    }
    for key in ("files", "images", "records", "rejects", "labels_without_image", "grouped_by"):
        assert second["counts"][key] == whole["counts"][key], key
    assert second["counts"]["exams"] == whole["counts"]["exams"]
    for key in ("positive_pixel_share", "positive_pixel_share_of_positives"):
        assert second["statistics"][key] == whole["statistics"][key]


def test_a_repeat_has_nothing_to_do_and_leaves_nothing(versions, convert, capsys):
    hospital, lake, _, second = versions
    content = convert(hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS, "--append")
    assert content == json.loads(json.dumps(second))
    assert sorted(path.name for path in lake.iterdir()) == ["1.0.0", "1.1.0"]
    assert f"nothing is new: {lake}/1.1.0" in capsys.readouterr().out


def test_a_night_of_its_own_files_keeps_all_others(copied, convert, tmp_path):
    """--images and --labels name the new files alone; the files of the others are gone."""
    hospital, lake = copied
    before = records(lake / "1.1.0", manifest.load(str(lake / "1.1.0")))
    night = Hospital(tmp_path / "night")
    night.patients = dict(hospital.patients)  # so that its pixels are new
    night.add("k0", "p1", LESION)
    night.add("k1", "nobody", None)
    (night.folder / "dicom" / "broken.dcm").write_bytes(b"no image")
    options = (*OPTIONS, "--append", "--max_reject_fraction=0.5")
    content = convert(night.images, night.csv(), lake / "1.1.0", *options)
    after = records(lake / "1.2.0", content)
    assert {name: after[name]["bytes"] for name in before} == {
        name: row["bytes"] for name, row in before.items()
    }
    assert after.keys() - before.keys() == {"k0", "k1"}
    old_patient = next(name for name, patient in hospital.patients.items() if patient == "p1")
    assert after["k0"]["split"] == before[old_patient]["split"]
    assert (content["counts"]["unlisted"], content["append"]["unlisted"]) == (15, 15)
    assert content["counts"]["images"] == 15 + 3 and content["counts"]["rejects"]
    num_shards = len(manifest.load(str(lake / "1.1.0"))["shards"])
    assert content["append"]["shards"] == {"linked": num_shards, "new": 2}
    problems, _ = verify.verify(lake / "1.2.0", content)
    assert problems.lines() == []


def test_a_label_is_not_lost_because_a_table_lacks_its_row(copied, convert):
    hospital, lake = copied
    hospital.labels = {"i1": LESION}  # this night's table; the others had labels before
    content = convert(hospital.images, hospital.csv(), lake / "1.1.0", *OPTIONS, "--append")
    before = records(lake / "1.1.0", manifest.load(str(lake / "1.1.0")))
    after = records(lake / "1.2.0", content)
    changed = {name for name, row in before.items() if after[name]["bytes"] != row["bytes"]}
    assert changed == {"i1"}
    # i6 never had a label, so it lost none; i2 got one before.
    assert content["append"]["labels_without_row"] == len(before) - 2


def test_what_an_interrupted_append_left_is_completed(versions, convert, tmp_path):
    """Stopped at any moment it leaves a folder without a manifest, which is no lake."""
    hospital, lake, first, second = versions
    folder = tmp_path / "ward"
    shutil.copytree(lake / "1.0.0", folder / "1.0.0")
    half = shutil.copytree(lake / "1.1.0", folder / "1.1.0")
    (half / "manifest.json").unlink()
    names = [shard["name"] for shard in second["shards"]]
    (half / names[0]).write_bytes(b"half a shard")
    (half / ".work" / f"{names[1]}.json").unlink()
    (half / names[2]).unlink()
    (half / f"{names[3]}.unfinished-0").write_bytes(b"half")
    (half / "ward-test.tfrecord-00000-of-00009").write_bytes(b"of another interrupted append")
    with pytest.raises(InputError, match="no manifest.json"):
        manifest.load(str(half))
    content = convert(hospital.images, hospital.csv(), folder / "1.0.0", *OPTIONS, "--append")
    assert content["shards"] == second["shards"] and content["append"] == second["append"]
    problems, _ = verify.verify(half, content)
    assert problems.lines() == []
    assert not [path for path in half.iterdir() if "unfinished" in path.name]
    assert manifest.load(str(folder / "1.0.0")) == json.loads(json.dumps(first))


@exhaustive
def test_files_that_were_only_copied_anew_change_nothing(copied, convert, capsys):
    hospital, lake = copied
    for path in (hospital.folder / "dicom").iterdir():
        os.utime(path, (10**9, 10**9))
    convert(hospital.images, hospital.csv(), lake / "1.1.0", *OPTIONS, "--append")
    assert "nothing is new" in capsys.readouterr().out and not (lake / "1.2.0").exists()


def test_another_image_of_a_known_id_is_refused(copied, convert):
    hospital, lake = copied
    hospital.add("i3", "p3")  # other pixels
    with pytest.raises(Refused, match=r"i3.dcm is not the image .* image, .* differ"):
        convert(hospital.images, hospital.csv(), lake / "1.1.0", *OPTIONS, "--append")
    assert not (lake / "1.2.0").exists()


@exhaustive
def test_rejects_without_news_are_listed(copied, convert, capsys):
    hospital, lake = copied
    (hospital.folder / "dicom" / "broken.dcm").write_bytes(b"no image")
    options = (*OPTIONS, "--append", "--max_reject_fraction=0.5")
    convert(hospital.images, hospital.csv(), lake / "1.1.0", *options)
    assert f"rejected: {lake}/1.2.0/rejects.jsonl" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="1 of 16 images rejected"):
        convert(hospital.images, hospital.csv(), lake / "1.1.0", *OPTIONS, "--append")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_side=16"], "--max_side 16 instead of 1024"),
        (["--window=percentile"], "--window percentile instead of default"),
        (["--bits=16"], "--bits 16 instead of 8"),
        (["--patient_pattern=p"], "--patient_pattern p instead of None"),
        (["--folds=3"], "has 2 folds, but --folds=3"),
        (["--splits_from=x"], "--append and --splits_from"),
        (["--replace"], "--append and --replace"),
        (["--source=metaimage"], "--append is for X-rays"),
        (["--output=lakes/ward"], "expected a version"),
        (["--deidentify=keep"], "--deidentify keep instead of hash"),
    ],
)
def test_what_does_not_fit_is_refused(versions, capsys, key_file, options, message):
    hospital, lake = versions[:2]
    arguments = [f"--images={hospital.images}", f"--labels={hospital.csv()}", "--append"]
    arguments += [f"--output={lake}/1.0.0", f"--deidentify_key_file={key_file}", *OPTIONS]
    assert converter.main([*arguments, *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in lake.iterdir()) == ["1.0.0", "1.1.0"]


def test_another_key_is_refused(versions, capsys, tmp_path):
    hospital, lake = versions[:2]
    (tmp_path / "key").write_bytes(b"another key, as long as it has to be")
    arguments = [f"--images={hospital.images}", f"--labels={hospital.csv()}", "--append"]
    arguments += [f"--output={lake}/1.0.0", f"--deidentify_key_file={tmp_path}/key", *OPTIONS]
    assert converter.main(arguments) == 2
    assert "was made with another --deidentify_key_file" in capsys.readouterr().err


def test_other_bits_and_other_classes_are_refused():
    base = earlier_lake.Base("lake", "1.0.0", 8, ("a", "b"), {}, 0, np.zeros(1), np.zeros(1))
    assert shards.lake_bits([], None, base) == shards.lake_bits([(8, "x")], None, base) == 8
    with pytest.raises(Refused, match="lake has 8 bits, and x.dcm 16; say --bits 8"):
        shards.lake_bits([(8, "w.dcm"), (16, "x.dcm")], None, base)
    assert folders.sort_names(["b"], "root", base.classes) == ["a", "b"]  # its number stays 1
    with pytest.raises(Refused, match=r"class folders \['c'\]"):
        folders.sort_names(["a", "c"], "root", base.classes)


@exhaustive
def test_findings_that_came_later_are_in_their_records(convert, tmp_path):
    hospital, lake = Hospital(tmp_path / "hospital"), tmp_path / "lakes" / "many"
    cells = {f"i{n}": [n % 2, (n // 2) % 2] for n in range(6)}

    def run(*options: str) -> dict:
        rows = [f"{name},{edema},{mass}\n" for name, (edema, mass) in cells.items()]
        (tmp_path / "findings.csv").write_text("ImageId,Edema,Mass\n" + "".join(rows))
        labels, output = tmp_path / "findings.csv", lake / "1.0.0"
        return convert(hospital.images, labels, output, "--findings=Edema,Mass", *options)

    for name in cells:
        hospital.add(name, name)
    before = records(lake / "1.0.0", run())
    cells["i1"] = [1, 1]
    cells["new"] = [0, 1]
    hospital.add("new", "i3")
    content = run("--append")
    after = records(lake / "1.1.0", content)
    assert {name: list(row["fields"]["findings"]) for name, row in after.items()} == cells
    assert {name for name in before if after[name]["bytes"] != before[name]["bytes"]} == {"i1"}
    assert after["new"]["split"] == before["i3"]["split"]
    problems, _ = verify.verify(lake / "1.1.0", content)
    assert problems.lines() == []


@exhaustive
def test_class_folders_keep_the_numbers_of_their_classes(convert, key_file, tmp_path):
    """The second night has images of the second class alone."""
    lake = tmp_path / "lakes" / "classes"
    for number in range(6):
        folder = tmp_path / f"night{number // 4}" / ("ab"[number % 2] if number < 4 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        (folder / f"i{number}.png").write_bytes(encoded(pixels))
    arguments = ["--source=images", "--class_folders", f"--deidentify_key_file={key_file}"]
    arguments += [f"--output={lake}/1.0.0", "--splits=train=1"]
    converter.run([f"--images={tmp_path}/night0/*/*.png", *arguments])
    content = converter.run([f"--images={tmp_path}/night1/*/*.png", "--append", *arguments])
    rows = records(lake / "1.1.0", content)
    labels = {name: row["fields"]["label"] for name, row in rows.items()}
    assert labels == {"a/i0": 0, "b/i1": 1, "a/i2": 0, "b/i3": 1, "b/i4": 1, "b/i5": 1}
    problems, _ = verify.verify(lake / "1.1.0", content)
    assert problems.lines() == []


def test_two_appends_at_once_are_refused(versions, convert):
    hospital, lake = versions[:2]
    with (
        lock.hold(lake / "1.1.0", converter.LOCK, *converter.LOCK_WORDS),
        pytest.raises(InputError, match="converts here; wait"),
    ):
        convert(hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS, "--append")


def test_a_shard_is_copied_where_the_disk_has_no_links(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"content")
    assert running_files.link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert running_files.link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))  # a repeat
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "other disk")))
    assert not running_files.link_or_copy(str(tmp_path / "a"), str(tmp_path / "c"))
    assert (tmp_path / "c").read_bytes() == b"content"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_patients_who_come_one_a_night_get_their_shares():
    """Each is dealt alone, and counts for the next one."""
    shares = [Fraction(8, 10), Fraction(1, 10), Fraction(1, 10)]
    dealt, rng = np.zeros((3, 2), np.int64), np.random.default_rng(1)
    for _ in range(400):
        has = rng.random((1, 1)) < 0.2
        part = stratify.deal(has, shares, dealt)[0]
        dealt[part] += [1, has[0, 0]]
    expected = np.outer([0.8, 0.1, 0.1], dealt.sum(axis=0))
    assert np.abs(dealt - expected).max() <= 2
