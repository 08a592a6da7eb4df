"""Headers meet rows in a group of one key: who gets which label, and what the others are told."""

import dataclasses

import apache_beam as beam
import pytest

from beam.conversion import labelling, listing, meeting, options
from lake import Stopped
from lake.labels.tables import Row
from lake.scan import Geometry, Header
from lake.sources import reader

GEOMETRY = Geometry(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def conversion(**changes) -> options.ConversionOptions:
    flags = options.parser().parse_args(
        ["--images=d/*/*.png", "--labels=l.csv", "--output=a/b/1.0.0", "--deidentify=keep"]
    )
    return dataclasses.replace(options.from_flags(flags, True, None), **changes)


def image(path: str, image_id: str, frame: int = 0) -> Header:
    return Header(path, 1, image_id, 10, 10, 8, frame=frame)


def volume(path: str, series: str, slices: int) -> Header:
    geometry = dataclasses.replace(GEOMETRY, slices=slices)
    return Header(path, 1, "", 10, 10, 16, series=series, modality="CT", geometry=geometry)


def joined(headers: list[Header], rows: dict[str, str], kind: str = "class", **changes):
    """Return ({id: label of an image}, {path: (reason, message)}, ids without an image, Tally)."""
    pairs = [(text, Row(n, value)) for n, (text, value) in enumerate(rows.items(), start=2)]
    sides = ("key", {"headers": headers, "rows": pairs})
    labels, rejects, orphans, tally = {}, {}, [], None
    for output in labelling.join(sides, kind, conversion(**changes)):
        if not isinstance(output, beam.pvalue.TaggedOutput):
            labels[output.header.image_id] = output.label.label
        elif output.tag == listing.REJECT:
            rejects[output.value["path"]] = output.value["reason"], output.value["message"]
        elif output.tag == labelling.ORPHAN:
            orphans.append(output.value)
        elif output.tag == labelling.TALLY:
            tally = output.value
    return labels, rejects, orphans, tally


def test_two_files_of_one_id_never_share_a_label():
    headers = [image("d/x/a.png", "a"), image("d/y/a.png", "a")]
    for rows in ({"a": "1"}, {"x/a.png": "1", "y/a.png": "0"}, {}):
        labels, rejects, *_ = joined(headers, rows, source="images", unlabelled="negative")
        assert not labels and {reason for reason, _ in rejects.values()} == {"duplicate-id"}
        assert rejects["d/x/a.png"][1] == (
            "d/x/a.png: its id 'a' is also that of d/y/a.png; --image_id_from path tells them apart"
        )
    _, rejects, *_ = joined(headers, {}, unlabelled="keep")
    assert "--image_id_from path (or uid)" in rejects["d/y/a.png"][1]
    # A third that differs in its letters has the label that is its own.
    labels, rejects, *_ = joined([*headers, image("d/x/A.png", "A")], {"A": "1", "a": "0"})
    assert labels == {"A": 1} and len(rejects) == 2


def test_two_volumes_of_one_series_are_rejected_and_slices_beside_one():
    rows = {"s": "0 0 0 4"}
    labels, rejects, *_ = joined(
        [volume("x/s.mhd", "s", 4), volume("y/s.mhd", "s", 4)], rows, "nodule"
    )
    assert not labels and [reason for reason, _ in rejects.values()] == ["duplicate-id"] * 2
    labels, rejects, *_ = joined(
        [volume("x/s.mhd", "s", 4), volume("y/1.dcm", "s", 1)], rows, "nodule", empty_slices=1
    )
    assert sorted(labels) == ["s#0000", "s#0001", "s#0002", "s#0003"]
    assert rejects["y/1.dcm"][0] == "duplicate-id" and "x/s.mhd" in rejects["y/1.dcm"][1]


def frames_of(name: str, count: int) -> list[Header]:
    return [image(f"d/{name}.dcm", f"{name}#{k:04d}", k) for k in range(count)]


def test_frames_have_the_label_of_their_file_unless_they_have_their_own():
    labels, *_ = joined(frames_of("v", 3), {"v": "1", "V.dcm#0001": "0"}, frames="each")
    assert labels == {"v#0000": 1, "v#0001": 0, "v#0002": 1}
    labels, *_ = joined(frames_of("v", 2), {"v.dcm": "-1"}, "rle", frames="each")
    assert labels == {"v#0000": 0, "v#0001": 0}
    labels, rejects, *_ = joined(frames_of("v", 2), {"v": "3 4"}, "rle", frames="each")
    assert not labels
    assert rejects["d/v.dcm"][0] == "no-label" and "such as 'v#00" in rejects["d/v.dcm"][1]
    # `#` in the name of another file is no frame.
    labels, rejects, orphans, _ = joined([image("d/v#1.png", "v#1")], {"v": "1"})
    assert not labels and orphans == ["v"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, "no row of l.csv has the id 'a'"),
        ({"labels": None, "masks": "m/*"}, "named a.png.*: m/*"),
    ],
)
def test_an_image_without_a_label_says_which_id_was_looked_for_and_where(changes, where):
    _, rejects, *_ = joined([image("d/x/a.png", "a")], {}, **changes)
    reason, message = rejects["d/x/a.png"]
    assert reason == "no-label" and message.startswith("d/x/a.png: no ")
    assert all(part in message for part in where.split(".*"))


def test_what_is_unclear_is_rejected_with_both_forms():
    headers = [image("d/Ab.png", "Ab"), image("d/aB.png", "aB")]
    labels, rejects, orphans, _ = joined(headers, {"ab": "1"}, unlabelled="negative")
    assert not labels and orphans == ["ab"]
    reason, message = rejects["d/Ab.png"]
    assert reason == "unclear-id" and "'ab' can mean 'Ab' as well as 'aB'" in message


# --- all groups together ---


def checked(*groups: tuple, **changes) -> meeting.Tally:
    """The tally of groups (headers, rows)."""
    tallies = [joined(*group, unlabelled="negative")[-1] for group in groups]
    add_up = meeting.AddUp()
    halves = [add_up.create_accumulator() for _ in range(2)]
    for number, tally in enumerate(tallies):
        add_up.add_input(halves[number % 2], tally)
    total = add_up.extract_output(add_up.merge_accumulators(halves))
    return meeting.check(total, conversion(**changes))


@pytest.mark.parametrize("changes", [{}, {"labels": None, "masks": "m/*.png"}])
def test_labels_of_other_images_stop_the_job_whatever_becomes_of_unlabelled(changes):
    with pytest.raises(Stopped) as error:
        checked(([image("d/a.png", "a")], {}), ([], {"x1": "1"}), ([], {"x2": "1"}), **changes)
    message = error.value.args[0]
    place = changes.get("masks", "l.csv")
    assert f"no label meets an image: {place} has ids such as 'x1'" in message
    assert "the images have ids such as 'a'" in message
    with pytest.raises(Stopped, match="has no row"):
        checked(([image("d/a.png", "a")], {}), **changes)


def test_no_labels_or_no_images_stop_nothing():
    nothing = ([image("d/a.png", "a")], {})
    assert checked(nothing, labels=None, masks=None).without_row == 1
    assert checked(([], {"x1": "1"})).met == 0
    assert checked(nothing, ([image("d/b.png", "b")], {"b.dcm": "1"})).met == 1


def test_ids_of_other_folders_beside_ids_of_the_same_ones_stop_the_job():
    agreeing = ([image("d/train/a.png", "a")], {"train/a.png": "1"})
    elsewhere = ([image("d/train/b.png", "b")], {"val/b.png": "1"})
    assert checked(agreeing, agreeing).agreeing == 2
    assert checked(elsewhere).elsewhere == 1  # the folder may have another name today
    equal = ([image("d/train/a.png", "train/a")], {"train/a": "1"})
    longer = ([image("d/train/b.png", "train/b")], {"CheXpert/train/b.png": "1"})
    assert checked(equal, longer).met == 2
    with pytest.raises(Stopped, match=r"1 in others, such as d/train/b.png the row of 'val/b.png'"):
        checked(agreeing, elsewhere)


def test_an_id_from_the_path_begins_at_the_first_wildcard():
    header = reader.name_by_path(image("d/p1/s1/view.jpg", "view"), "d")
    assert header.image_id == "p1/s1/view"
    assert reader.name_by_path(image("d/view.jpg", "view"), "d").image_id == "view"
    framed = reader.name_by_path(image("d/p1/v.dcm", "v#0002", 2), "d")
    assert framed.image_id == "p1/v#0002"
    assert reader.name_by_path(volume("d/p1/ct.mhd", "ct", 4), "d").series == "p1/ct"
    one_slice = dataclasses.replace(volume("d/p1/ct.dcm", "1.2.3", 1), image_id="ct")
    assert reader.name_by_path(one_slice, "d") == one_slice
