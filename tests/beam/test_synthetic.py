"""Phantoms: the files are legal and repeatable, the masks are what was drawn, and hard to guess."""

import csv

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

from beam import synthetic, synthetic_ct
from beam.phantoms import radiograph, xray
from lake import InputError
from lake.labels import rle

SIDE = 128


@pytest.fixture
def folder(phantoms):
    return phantoms


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of four phantoms: two with a lesion, one with two, one with none."""
    folder = tmp_path_factory.mktemp("few")
    synthetic.write(folder, images=4, seed=6, side=SIDE, positive_share=0.6)
    return folder


def rows(folder):
    with open(folder / "train-rle.csv", newline="") as file:
        header, *rest = csv.reader(file)
    assert header == ["ImageId", " EncodedPixels"]
    return rest


def headers(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.glob("dicom/*.dcm"))]


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def twins(count, side=256):
    """(view, mask, the same view without lesion) of `count` phantoms with one lesion."""
    for number in range(count):
        pair = []
        for num_lesions in (1, 0):
            rngs = np.random.default_rng([5, number, 1]), np.random.default_rng([5, number])
            pair.append(xray.draw(*rngs, "FM"[number % 2], number % 3 == 0, num_lesions, side))
        (view, [mask]), (without, none) = pair
        assert none == []
        yield view, mask, without


@pytest.fixture(scope="module")
def twenty_twins():
    return list(twins(20))


def test_masks_in_the_csv_are_those_drawn(few):
    texts = {}
    for image_id, text in rows(few):
        texts.setdefault(image_id, []).append(text.strip())
    assert texts.keys() == {path.stem for path in few.glob("dicom/*.dcm")}
    assert [len(texts_of_image) for texts_of_image in texts.values()] == [1, 1, 2, 1]
    for number, (image_id, texts_of_image) in enumerate(texts.items()):
        dataset, masks = radiograph.make(number, 6, SIDE, 8, "MONOCHROME2", 0.6)
        assert dataset.SOPInstanceUID == image_id
        assert (texts_of_image == [rle.EMPTY]) == (masks == []) == (number == 3)
        for text, mask in zip(texts_of_image, masks or [np.zeros((SIDE, SIDE))], strict=True):
            np.testing.assert_array_equal(rle.decode(text, SIDE, SIDE) > 0, mask)


def test_share_of_positives(folder):
    positive = {image_id for image_id, text in rows(folder) if text != " -1"}
    assert 0.33 <= len(positive) / 40 <= 0.48
    many = [radiograph.is_positive(number, seed=3, positive_share=0.22) for number in range(2000)]
    assert abs(np.mean(many) - 0.22) < 0.01


def test_some_patients_have_several_images_numbered_from_one(folder):
    instances = {}
    for dataset in headers(folder):
        instances.setdefault(dataset.PatientID, set()).add(int(dataset.InstanceNumber))
    assert any(len(numbers) > 1 for numbers in instances.values())
    assert all(numbers == set(range(1, len(numbers) + 1)) for numbers in instances.values())
    facts = {(d.PatientID, d.PatientSex, d.PatientAge) for d in headers(folder)}
    assert len(facts) == len(instances)


def test_headers_are_legal_and_like_the_challenge(folder):
    for dataset in headers(folder):
        assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit
        assert dataset.LossyImageCompression == "01"
        assert dataset.pixel_array.shape == (SIDE, SIDE)
        assert dataset.pixel_array.dtype == np.uint8
        uids = dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID
        assert all(uid.is_valid for uid in uids) and len(set(uids)) == 3
        assert dataset.ViewPosition in ("PA", "AP") and dataset.Modality == "CR"
        assert 16 <= int(dataset.PatientAge.removesuffix("Y")) <= 94
        assert 0.14 <= dataset.PixelSpacing[0] * SIDE / 1024 <= 0.17


@pytest.mark.slow
def test_bytes_depend_on_the_seed_and_not_on_processes_or_number(tmp_path):
    small = {"side": 64, "positive_share": 0.5}
    synthetic.write(tmp_path / "one", images=5, seed=1, **small)
    synthetic.write(tmp_path / "two", images=5, seed=1, processes=2, **small)
    synthetic.write(tmp_path / "fewer", images=2, seed=1, **small)
    synthetic.write(tmp_path / "other", images=2, seed=2, **small)
    one, fewer, other = (content(tmp_path / name) for name in ("one", "fewer", "other"))
    assert one == content(tmp_path / "two")
    assert all(one[name] == fewer[name] for name in fewer if name.endswith(".dcm"))
    assert not set(one.values()) & set(other.values())
    synthetic.write(tmp_path / "one", images=5, seed=1, **small)
    assert one == content(tmp_path / "one")


@pytest.mark.parametrize("bits", [12, 16])
def test_words_fill_their_bits_and_monochrome1_is_the_inverse(bits):
    one, two = (radiograph.make(0, 0, 64, bits, f"MONOCHROME{k}", 0.22)[0] for k in (1, 2))
    assert (two.BitsAllocated, two.BitsStored, two.HighBit) == (16, bits, bits - 1)
    assert (two.WindowCenter, two.WindowWidth) == (2 ** (bits - 1), 2**bits)
    assert (two.RescaleSlope, two.RescaleIntercept) == (1, 0)
    top = 2**bits - 1
    assert two.pixel_array.dtype == np.uint16
    assert 0.7 * top < two.pixel_array.max() <= top
    np.testing.assert_array_equal(one.pixel_array, top - two.pixel_array)


def test_monochrome1_in_8_bits_is_the_inverse_but_for_the_jpeg():
    one, two = (radiograph.make(0, 0, SIDE, 8, f"MONOCHROME{k}", 0.22)[0] for k in (1, 2))
    difference = 255 - one.pixel_array.astype(int) - two.pixel_array
    assert np.abs(difference).mean() < 2


@pytest.mark.slow
def test_a_lesion_changes_nothing_outside_it_but_its_line(twenty_twins):
    for view, mask, without in twenty_twins:
        near = mask.copy()
        for _ in range(5):
            near = near | np.roll(near, 1, 0) | np.roll(near, -1, 0)
            near = near | np.roll(near, 1, 1) | np.roll(near, -1, 1)
        # A trace may differ under the mediastinum's edge, where less than half of the ray is lung.
        np.testing.assert_allclose(view[~near], without[~near], atol=0.05)


@pytest.mark.slow
def test_a_lesion_has_no_lung_markings(twenty_twins):
    ratios = []
    for view, mask, without in twenty_twins:
        # Three pixels inside, so that neither the chest wall nor the pleura counts.
        inside = mask.copy()
        for shift in (-3, 3):
            inside &= np.roll(mask, shift, 0) & np.roll(mask, shift, 1)
        if inside.sum() > 100:
            ratios.append(detail(view)[inside].std() / detail(without)[inside].std())
    assert len(ratios) > 10
    assert np.median(ratios) < 0.7


def detail(view):
    """What is finer than eight pixels."""
    side = len(view)
    coarse = Image.fromarray(view).resize((side // 8, side // 8), Image.Resampling.BOX)
    return view - np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.slow
def test_brightness_alone_does_not_find_a_lesion(twenty_twins):
    views, masks, withouts = (np.stack(parts) for parts in zip(*twenty_twins, strict=True))
    inside = np.array([view[mask].mean() for view, mask in zip(views, masks, strict=True)])
    normal = np.array([view[mask].mean() for view, mask in zip(withouts, masks, strict=True)])
    assert 0.35 < (inside[:, None] < normal[None]).mean() < 0.65  # the area under the ROC curve
    edges = np.linspace(0, 1, 11)
    for low in edges[:-1]:
        for high in edges[edges > low]:
            guess = (views >= low) & (views < high)
            overlap = (guess & masks).sum((1, 2))
            dice = 2 * overlap / (guess.sum((1, 2)) + masks.sum((1, 2)))
            assert dice.mean() < 0.25


@pytest.mark.parametrize(
    ("module", "wrong"),
    [
        (synthetic, "--images=0"),
        (synthetic, "--seed=-1"),
        (synthetic, "--side=20"),
        (synthetic, "--bits=9"),
        (synthetic, "--photometric=RGB"),
        (synthetic, "--positive_share=1.5"),
        (synthetic, "--processes=0"),
        (synthetic_ct, "--volumes=0"),
        (synthetic_ct, "--seed=-1"),
    ],
)
def test_a_wrong_option_is_one_message_and_exit_2(module, wrong, tmp_path, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        module.main([f"--output={tmp_path}", wrong])
    message = capsys.readouterr().err.splitlines()[-1]
    option, _, value = wrong.partition("=")
    assert f"error: argument {option}: " in message and value in message
    assert "expected a number from " in message or "expected one of " in message
    assert not list(tmp_path.iterdir())


def test_another_runs_files_are_not_mixed_in(tmp_path):
    synthetic.write(tmp_path, images=2, seed=0, side=64)
    with pytest.raises(InputError, match="2 files that are not of this run"):
        synthetic.write(tmp_path, images=2, seed=1, side=64)


def test_what_a_killed_run_left_is_replaced_by_the_same_run(tmp_path):
    unfinished_file = tmp_path / "dicom" / f"unfinished.{radiograph.image_id(0, 1)}.dcm"
    unfinished_file.parent.mkdir()
    unfinished_file.write_bytes(b"the first half")
    synthetic.write(tmp_path, images=2, seed=0, side=64)
    names = {path.name for path in unfinished_file.parent.iterdir()}
    assert names == {f"{radiograph.image_id(0, number)}.dcm" for number in range(2)}


def test_more_ct_volumes_begin_with_the_same_and_fewer_are_not_mixed_in(tmp_path):
    synthetic_ct.write(tmp_path / "two", volumes=2)
    synthetic_ct.write(tmp_path / "three", volumes=3)
    two, three = content(tmp_path / "two"), content(tmp_path / "three")
    assert all(three[name] == two[name] for name in two if name != "annotations.csv")
    assert three["annotations.csv"].startswith(two["annotations.csv"])
    with pytest.raises(InputError, match="1 files that are not of this run, such as ct2.mhd"):
        synthetic_ct.write(tmp_path / "three", volumes=2)


def test_a_nodule_is_where_the_csv_says(tmp_path):
    synthetic_ct.write(tmp_path, volumes=3)
    with open(tmp_path / "annotations.csv", newline="") as file:
        nodules = list(csv.DictReader(file))
    for nodule in nodules:
        image = sitk.ReadImage(tmp_path / f"{nodule['seriesuid']}.mhd")
        centre, diameter = [float(nodule[f"coord{axis}"]) for axis in "XYZ"], nodule["diameter_mm"]
        hu = sitk.GetArrayFromImage(image)
        places = np.stack(np.meshgrid(*map(np.arange, hu.shape), indexing="ij"), -1)
        offsets = places * image.GetSpacing()[::-1] - np.array(centre[::-1])
        is_near = np.linalg.norm(offsets, axis=-1) <= float(diameter) / 2
        assert (hu[is_near] == synthetic_ct.NODULE_HU).all()
        lungs = np.zeros(hu.shape, bool)
        for lung in synthetic_ct.LUNGS:
            lungs[lung] = True
        assert (hu[lungs & ~is_near] == synthetic_ct.LUNG_HU).all()
