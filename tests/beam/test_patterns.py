"""Patterns name what people mean: not what systems leave there, folders with brackets, letters in
any composition."""

import unicodedata
from pathlib import Path

import pytest

from beam.running import files, patterns
from lake import InputError


@pytest.fixture
def tree(tmp_path):
    """Returns a function that makes empty files below tmp_path."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def names(pattern: str, kind: str = "dicom") -> tuple[list[str], int]:
    matches = patterns.image_files("images", str(pattern), kind)
    return sorted(Path(file.path).name for file in matches.files), matches.num_left_out


def test_files_of_systems_are_left_out_and_counted(tree):
    folder = tree(
        *("s/a.dcm", "s/._a.dcm", "s/Thumbs.db", "s/.DS_Store", "s/desktop.ini", "s/__MACOSX.dcm"),
        *("__MACOSX/s/._a.dcm", "__MACOSX/s/b.dcm", ".cache/c.dcm", "s/@eaDir/a.dcm"),
    )
    assert names(f"{folder}/**") == (["__MACOSX.dcm", "a.dcm"], 8)
    assert names(f"{folder}/s/*.dcm") == (["__MACOSX.dcm", "a.dcm"], 1)
    # What is written out is meant.
    assert names(f"{folder}/.cache/*.dcm") == (["c.dcm"], 0)
    assert names(f"{folder}/s/.*.dcm") == (["._a.dcm"], 0)


def test_objects_that_stand_for_folders_are_no_files():
    assert patterns.is_of_system("gs://bucket/dicom/new/", "gs://bucket/dicom/**")
    assert not patterns.is_of_system("gs://bucket/dicom/new/a.dcm", "gs://bucket/dicom/**")
    assert patterns.is_of_system("gs://bucket/dicom/__MACOSX/a.dcm", "gs://bucket/dicom/**")


def test_the_data_files_of_headers_are_no_images_and_not_counted(tree):
    assert names(f"{tree('a.mhd', 'a.raw', '._a.mhd')}/*", "metaimage") == (["a.mhd"], 1)


@pytest.mark.parametrize("folder", ["series [1]", "[a-b] [2]", "[z-a]", "x["])
def test_a_folder_with_brackets_is_read(tree, folder):
    root = tree(f"{folder}/i0.dcm", f"{folder}/i1.dcm", "other/i2.dcm")
    patterns.check_matches("images", f"{root}/{folder}/*.dcm")
    assert names(f"{root}/{folder}/*.dcm") == (["i0.dcm", "i1.dcm"], 0)
    assert names(f"{root}/{folder}/i[12].dcm") == (["i1.dcm"], 0)
    assert names(f"{root}/{folder}/i0.dcm") == (["i0.dcm"], 0)
    assert names(f"{root}/o*r/i[12].dcm") == (["i2.dcm"], 0)


def test_brackets_that_can_be_read_in_two_ways_are_refused(tree):
    root = tree("s[1]/a.dcm", "s1/b.dcm")
    with pytest.raises(InputError, match=r"as a set of letters, .*s1/b.dcm, and as it stands"):
        patterns.check_matches("images", f"{root}/s[1]/*.dcm")
    assert names(f"{root}/s[[]1]/*.dcm") == (["a.dcm"], 0)


@pytest.mark.parametrize(("on_disk", "typed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_composition_is_found(tree, on_disk, typed):
    root = tree(unicodedata.normalize(on_disk, "Müller/é.dcm"))
    pattern = f"{root}/{unicodedata.normalize(typed, 'Müller/*.dcm')}"
    patterns.check_matches("images", pattern)
    assert len(names(pattern)[0]) == 1


def test_both_compositions_are_found_once(tree):
    root = tree(*(unicodedata.normalize(form, "Müller/a.dcm") for form in ("NFC", "NFD")))
    assert len(names(f"{root}/Müller/*.dcm")[0]) == 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("s", r"s: is a folder; expected a pattern of the files in it, such as '.*/s/\*\*'"),
        ("*", "matches folders alone; expected a pattern .*such as"),
        ("nowhere/*", "no file matches; quote the pattern"),
        ("s[12]/*", r"no file matches; .*write \[\[\] for a \["),
        ("h/*", "no file matches but 2 that are hidden or that a system left there"),
        ("x [1]", "is a folder|matches folders alone"),
    ],
)
def test_a_pattern_without_images_says_why(tree, pattern, message):
    root = tree("s/a.dcm", "h/.a.dcm", "h/Thumbs.db", "x [1]/a.dcm")
    with pytest.raises(InputError, match=message):
        patterns.check_matches("images", f"{root}/{pattern}")


def test_a_folder_with_a_slash_means_its_files(tree):
    patterns.check_matches("images", f"{tree('s/a.dcm')}/s/")


def test_files_of_a_folder_with_brackets_are_listed(tree):
    root = tree("lakes [1]/a", "lakes [1]/b", "lakes 1/c")
    assert sorted(files.names_in(f"{root}/lakes [1]")) == ["a", "b"]
