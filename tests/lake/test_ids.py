"""Ids of images and of label files meet wherever that is clear, and say where it is not."""

import unicodedata

import pytest

from lake import ids
from lake.sources.dicom import dicom

CAFE = "café"


@pytest.mark.parametrize("ending", ["dcm", "DCM", "dicom", "Dicom", "dic", "ima", "IMA"])
def test_a_dicom_files_id_has_no_ending(ending):
    assert dicom.file_stem(f"gs://bucket/a.b/1.2.840.10.{ending}") == "1.2.840.10"


def test_other_endings_of_a_dicom_file_are_parts_of_its_id():
    assert [dicom.file_stem(f"x/{name}") for name in ("1.2.3", "a.png", ".dcm")] == [
        *("1.2.3", "a.png", ".dcm")
    ]


@pytest.mark.parametrize(
    ("image_id", "path", "text"),
    [
        ("a", "x/a.dcm", "a"),
        ("a", "x/a.dicom", "a.dicom"),
        ("a", "x/a.dcm", "a.DCM"),
        ("a", "x/a.png", "a.dcm"),  # the files were converted
        ("a", "x/a.JPG", "a.jpeg"),
        ("a", "x/a.bmp", "a.TIFF"),
        ("a.nii", "x/a.nii.gz", "a"),
        ("a", "x/a.nii.gz", "a.nii.gz"),
        ("a.dcm", "x/a.dcm.png", "a"),
        ("a", "x/a.dcm", "a.dcm.png"),
        ("Img_1", "x/Img_1.png", "img_1"),
        ("img_1", "x/img_1.png", "IMG_1.PNG"),
        (CAFE, f"x/{CAFE}.png", unicodedata.normalize("NFD", CAFE)),
        (unicodedata.normalize("NFD", CAFE), "x/y.png", f"{CAFE}.png".upper()),
        ("a", "x/a.png", "  a "),
        ("a", "x/a.png", "\ufeffa"),
        (" a", "x/ a.png", "a"),
        ("a", "x/a.png", "./a.png"),
        ("a", "x/a.png", ".\\x\\a.png"),
        ("a", "x/a.png", "train/a.png"),
        ("a", "x/a.png", "C:\\data\\train\\a.png"),
        ("a", "x/a.png", "/data/x/a.png"),
        ("view1", "data/p1/s1/view1.jpg", "p1/s1/view1.jpg"),
        ("p1/s1/view1", "data/p1/s1/view1.jpg", "CheXpert-v1.0/train/p1/s1/view1.jpg"),
        ("train/p1/s1/view1", "data/train/p1/s1/view1.jpg", "p1/s1/view1.jpg"),
        ("00012", "x/00012.png", "12"),
        ("12", "x/12.png", "12.0"),
        ("file#0001", "x/file.dcm#0001", "file.dcm#0001"),
    ],
)
def test_one_id_written_in_another_way_meets(image_id, path, text):
    assert ids.key(image_id) == ids.key(text)
    meeting = ids.meet({image_id: path}, [text])
    assert meeting.texts == {image_id: [text]} and not meeting.free and not meeting.unclear


@pytest.mark.parametrize(
    ("paths", "texts", "expected", "free"),
    [
        # An equal id comes first, and nobody else has its label.
        ({"a": "x/a.png", "A": "x/A.png"}, ["A"], {"A": ["A"]}, []),
        ({"a": "x/a.png"}, ["a", "a.png"], {"a": ["a"]}, ["a.png"]),
        ({"a": "x/a.png", "a.png": "x/a.png.png"}, ["a.png"], {"a.png": ["a.png"]}, []),
        (
            {CAFE: "x/1.png", unicodedata.normalize("NFD", CAFE): "x/2.png"},
            [CAFE],
            {CAFE: [CAFE]},
            [],
        ),
        # Then the file's whole name, then its folders.
        ({"a": "x/a.png"}, ["a.jpg", "a.png"], {"a": ["a.png"]}, ["a.jpg"]),
        ({"a": "x/y/a.png"}, ["y/a.png", "z/a.png"], {"a": ["y/a.png"]}, ["z/a.png"]),
        (
            {"x/a": "d/x/a.png", "y/a": "d/y/a.png"},
            ["e/y/a.jpg", "e/x/a.jpg"],
            {"x/a": ["e/x/a.jpg"], "y/a": ["e/y/a.jpg"]},
            [],
        ),
        (
            {"Img1": "x/Img1.png", "img1": "x/img1.png"},
            ["img1.jpg", "Img1.jpg"],
            {"Img1": ["Img1.jpg"], "img1": ["img1.jpg"]},
            [],
        ),
        # The same text in two compositions means one image, if only one is there.
        ({"é": "x/1.png"}, ["é", "e\u0301"], {"é": ["e\u0301", "é"]}, []),
        # Folders of an id are never left out.
        ({"p1/s1/a": "d/p1/s1/a.png"}, ["p2/s1/a"], {}, ["p2/s1/a"]),
    ],
)
def test_the_nearest_form_meets(paths, texts, expected, free):
    meeting = ids.meet(paths, texts)
    assert (meeting.texts, meeting.free, meeting.unclear) == (expected, free, {})


@pytest.mark.parametrize(
    ("paths", "texts", "message"),
    [
        ({"a": "x/a.png", "A": "x/A.png"}, ["a.JPG"], None),
        ({"Ab": "x/Ab.png", "aB": "x/aB.png"}, ["ab"], "'ab' can mean 'Ab' as well as 'aB'"),
        ({"a": "x/a.png"}, ["a.jpg", "a.dcm"], "'a' can be meant by 'a.dcm' and 'a.jpg'"),
        ({"a": "x/a.png"}, ["v/a.png", "w/a.png"], "'a' can be meant by 'v/a.png' and 'w/a.png'"),
        ({"p/a": "x/p/a.png", "q/a": "x/q/a.png"}, ["a"], "'a' can mean 'p/a' as well as 'q/a'"),
    ],
)
def test_what_several_share_is_unclear_and_nobody_gets_it(paths, texts, message):
    meeting = ids.meet(paths, texts)
    if message is None:  # small letters decide
        assert meeting.texts == {"a": ["a.JPG"]} and not meeting.unclear
    else:
        assert not meeting.texts and meeting.free == sorted(texts)
        assert any(message in text for text in meeting.unclear.values())
        assert meeting.unclear.keys() == paths.keys()


def test_an_id_that_names_other_folders_is_told_from_one_that_agrees():
    paths = {"a": "d/x/a.png", "b": "d/x/b.png"}
    assert ids.meet(paths, ["x/a.png"]).elsewhere == set()
    assert ids.meet(paths, ["y/b.png"]).elsewhere == {"b"}


def test_ids_group_by_as_many_parts_as_the_shortest_has():
    assert ids.key("CheXpert\\P1\\S1\\view1.jpg", depth=2) == "s1/view1" == ids.key("s1/View1", 2)
    assert [ids.num_parts(text) for text in ("a", "./a/b", "")] == [1, 2, 1]


def test_the_part_below_a_folder():
    assert ids.below("gs://b/x/p1/a.png", "gs://b/x") == "p1/a.png"
    assert ids.below("./x/p1/a.png", "./x/") == "p1/a.png"
