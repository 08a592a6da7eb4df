"""Masks are no images, wherever they lie: which files of a folder are which, and what is told of
those that are neither."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from makers import dicom as dicom_maker
from makers.images import encoded
from makers.lakes import records

from beam import convert as converter
from beam.conversion import listing, mask_files, options
from lake import Refused
from lake.labels import rle
from lake.sources.masks import mask_names

GREY = encoded(np.arange(48, dtype=np.uint8).reshape(6, 8))
EMPTY = encoded(np.zeros((6, 8), np.uint8))
SQUARE = np.zeros((6, 8), np.uint8)
SQUARE[1:3, 2:4] = 255


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a function that writes the same picture under each name below a folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(GREY)
        return tmp_path

    return make


def options_of(*flags: str, source: str = "images") -> options.ConversionOptions:
    arguments = [f"--source={source}", "--output=a/b/1.0.0", "--deidentify=keep", *flags]
    return options.from_flags(options.parser().parse_args(arguments), True, None)


def listed(*flags: str, **changes) -> tuple[list[str], list[str], dict[str, int]]:
    """The names of the images, those of the masks, the counts that are not 0."""
    choice, counts, names = options_of(*flags, **changes), {}, ([], [])
    steps = [(listing.match_images(choice.images, choice), names[0])]
    if choice.masks:
        steps.append((mask_files.match(choice.masks, choice), names[1]))
    for step, listed_names in steps:
        for output in step:
            if isinstance(output, list):
                listed_names += [Path(path).name for path, *_ in output]
            elif output.value[1]:
                counts[output.value[0]] = output.value[1]
    return sorted(names[0]), sorted(names[1]), counts


def seg_of(uid: str, path: Path) -> None:
    """Write a DICOM SEG of one frame, SQUARE, for the image with this SOP Instance UID."""
    image, frame = pydicom.Dataset(), pydicom.Dataset()
    image.ReferencedSOPInstanceUID = uid
    derivation, segment = pydicom.Dataset(), pydicom.Dataset()
    derivation.SourceImageSequence = [image]
    segment.ReferencedSegmentNumber = segment.SegmentNumber = 1
    frame.DerivationImageSequence = [derivation]
    frame.SegmentIdentificationSequence = [segment]
    bits = np.packbits(SQUARE.ravel() > 0, bitorder="little").tobytes()
    attributes = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": bits}
    attributes |= {"SegmentSequence": [segment], "SharedFunctionalGroupsSequence": [frame]}
    sop_class = pydicom.uid.SegmentationStorage
    path.write_bytes(dicom_maker.make(SQUARE, SOPClassUID=sop_class, **attributes))


@pytest.mark.parametrize(
    ("masks", "key"), [("d/*", "label_files_by_content"), ("d/s*.dcm", "label_files_among_images")]
)
def test_dicom_segs_among_the_images_that_they_are_of(tree, masks, key):
    root = tree("d/other/a.dcm")
    for number in range(3):
        pixels = np.full((6, 8), number, np.uint16)
        data = dicom_maker.make(pixels, SOPInstanceUID=f"1.2.{number}", SOPClassUID="1.2.840.1")
        (root / f"d/i{number}.dcm").write_bytes(data)
    seg_of("1.2.1", root / "d/s1.dcm")
    flags = ("--images=d/*", f"--masks={masks}", "--image_id_from=uid")
    choice = options_of(*flags, source="dicom")
    chunks = [output for output in listing.match_images("d/*", choice) if isinstance(output, list)]
    outputs = [output for chunk in chunks for output in listing.read_headers(chunk, choice)]
    uids = sorted(output[0] for output in outputs if isinstance(output, tuple))
    assert uids == ["1.2.0", "1.2.1", "1.2.2"]
    counted = [output.value for output in outputs if not isinstance(output, tuple)]
    assert counted == ([(key, 1)] if "content" in key else [])
    chunks = [output for output in mask_files.match(masks, choice) if isinstance(output, list)]
    [(uid, row)] = [output for chunk in chunks for output in mask_files.read(chunk, choice)]
    assert uid == "1.2.1" and (rle.decode(row.value, 6, 8) == SQUARE).all()
    # Without --masks it is a reject, and never an image.
    choice = options_of("--images=d/*", "--unlabelled=negative", source="dicom")
    [reject] = [
        output.value
        for chunk in listing.match_images("d/*", choice)
        if isinstance(chunk, list)
        for output in listing.read_headers(chunk, choice)
        if not isinstance(output, tuple)
    ]
    assert reject["reason"] == "segmentation" and "give it to --masks" in reject["message"]


BUSI = ("benign (1).png", "benign (1)_mask.png", "benign (1)_mask_1.png", "benign (2).png")
IMAGES, MASKS = [BUSI[0], BUSI[3]], [*BUSI[1:3]]


@pytest.mark.parametrize(
    "flags",
    [
        ("--images=*.png", "--masks=*_mask*.png"),
        ("--images=*.png", "--masks=*_mask*.png", "--mask_suffix=_mask*"),
        ("--images=*.png", "--masks=*.png", "--mask_suffix=_mask*"),
        ("--images=**", "--masks=./*", "--mask_suffix=_mask*"),
        ("--images={root}/**", "--masks=*", "--mask_suffix=_mask*"),
        ("--images={link}/*", "--masks={root}/*_mask*"),
        ("--images=*.p[n]g", "--masks={root}/../{name}/*_mask*"),
    ],
)
def test_masks_beside_their_images_are_no_images(tree, tmp_path_factory, flags):
    root = tree(*BUSI)
    link = tmp_path_factory.mktemp("links") / "data"
    link.symlink_to(root)
    flags = [flag.format(root=root, link=link, name=root.name) for flag in flags]
    assert listed(*flags) == (IMAGES, MASKS, {"label_files_among_images": 2})


@pytest.mark.parametrize(
    ("names", "flags", "images", "masks", "counts"),
    [
        (  # a tree of masks in that of the images
            ("a.png", "masks/a.png", "masks/b.png"),
            ("--images=**", "--masks=masks/*"),
            *(["a.png"], ["a.png", "b.png"], {"label_files_among_images": 2}),
        ),
        (  # the other way round
            ("masks/a.png", "masks/images/a.png"),
            ("--images=masks/images/*", "--masks=masks/*"),
            *(["a.png"], ["a.png"], {}),
        ),
        (  # told by the ending
            ("a.jpg", "a.png", "b.jpg"),
            ("--images=*", "--masks=*.png"),
            *(["a.jpg", "b.jpg"], ["a.png"], {"label_files_among_images": 1}),
        ),
        (  # neither images nor masks
            ("i/a.png", "m/a_mask.png", "m/readme.txt", "m/.a_mask.png", "m/b_msk.png"),
            ("--images=i/*", "--masks=m/*", "--mask_suffix=_mask"),
            *(["a.png"], ["a_mask.png"], {"masks_without_suffix": 2}),
        ),
        (  # the label file, and no other
            ("a.png", "labels.csv", "x/labels.csv"),
            ("--images=**", "--labels=./labels.csv"),
            *(["a.png", "labels.csv"], [], {"label_files_among_images": 1}),
        ),
        (  # some masks that --masks does not match
            BUSI,
            ("--images=*", "--masks=*_mask.png", "--mask_suffix=_mask"),
            *([BUSI[0], BUSI[2], BUSI[3]], [BUSI[1]]),
            {"label_files_among_images": 1, "images_named_as_masks": 1},
        ),
        (BUSI, ("--images=*",), [*BUSI], [], {"images_named_as_masks": 2}),
        (  # names that say nothing: no other image is named so
            ("a_mask.png", "b seg 1.png", "c/a.png"),
            ("--images=**",),
            *(["a.png", "a_mask.png", "b seg 1.png"], [], {}),
        ),
    ],
)
def test_what_each_file_is(tree, names, flags, images, masks, counts):
    tree(*names)
    assert listed(*flags) == (sorted(images), sorted(masks), counts)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--images=*", "--masks=*"), r"claims all 4 files of --images=.*--mask_suffix of masks"),
        (("--images=*", "--masks=**.png", "--mask_suffix=*"), "claims all"),
        (
            ("--images=*1).png", "--masks=*", "--mask_suffix=_m"),
            "of 4 files none has --mask_suffix",
        ),
        (("--images=l.csv", "--labels=l.csv"), "matches the label file alone"),
    ],
)
def test_patterns_that_leave_no_image_or_no_mask_are_refused(tree, flags, message):
    tree(*BUSI, *(["l.csv"] if "l.csv" in flags[0] else []))
    with pytest.raises(Refused, match=message):
        listed(*flags)


@pytest.mark.parametrize(
    ("name", "is_like"),
    [
        *((f"a{end}", True) for end in ("_mask", "-MASK", " seg 2", "_mask_1", ".label", "_masks")),
        *((f"a{end}", False) for end in ("mask", "_masked", "_mask_b", "_1", "_PA")),
    ],
)
def test_names_like_those_of_masks(name, is_like):
    assert mask_names.num_named_as_masks(["d/a.png", f"d/{name}.png"]) == is_like
    assert not mask_names.num_named_as_masks(["e/a.png", f"d/{name}.png"])


def run(root: Path, *flags: str, version: str = "1.0.0") -> tuple[int, Path]:
    output = root / "lakes" / "x" / version
    arguments = ["--source=images", f"--output={output}", "--deidentify=keep", *flags]
    return converter.main([*arguments, "--max_reject_fraction=1"]), output


def test_a_folder_of_images_and_masks_becomes_positives_and_negatives(tree, capsys):
    """BUSI's layout, and three classes in the masks."""
    root = tree("d/benign (1).png", "d/benign (2).png")
    two = np.where(SQUARE, np.uint8(2), np.uint8(0))
    (root / "d/benign (1)_mask.png").write_bytes(encoded(two))
    (root / "d/benign (1)_mask_1.png").write_bytes(encoded(np.flip(two)))
    (root / "d/notes_mask.txt").write_text("no mask")
    flags = ["--images=d/*", "--masks=d/*.png", "--mask_suffix=_mask*", "--unlabelled=negative"]
    code, lake = run(root, *flags, "--mask_values=2,7")
    labels = {r["image_id"].decode(): r["label"] for r in records(lake)}
    out = capsys.readouterr().out
    assert code == 0 and labels == {"benign (1)": 1, "benign (2)": 0}
    assert "\n2 files of --images are labels, and no images\n" in out
    assert "\nwarning: --mask_values: no mask has 7; the masks have 0, 2\n" in out
    code, lake = run(root, *flags, "--mask_values=7", version="1.0.1")
    assert code == 2 and not (lake / "manifest.json").exists()
    assert "no mask has 7; the masks have 0, 2; the lake is not" in capsys.readouterr().err


def test_a_lake_of_nothing_is_refused(tree, capsys):
    root = tree("d/a.png")
    (root / "d/a.png").write_text("no image")
    code, lake = run(root, "--images=d/*", "--unlabelled=keep")
    assert code == 2 and not (lake / "manifest.json").exists()
    assert (
        "no image became a record: 1 of 1 images rejected (not-an-image: 1)"
        in capsys.readouterr().err
    )
