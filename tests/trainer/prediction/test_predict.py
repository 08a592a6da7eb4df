"""predict over files and lakes, with networks that paint what is bright: the masks follow."""

import io
import json
import math
from pathlib import Path

import highdicom
import keras
import numpy as np
import pydicom
import pytest
import tensorflow as tf
from makers import trained
from makers.ct_series import ROOT, body, positions, slice_file
from makers.painter import (
    BRIGHT,
    HALF,
    RADIOGRAPHS,
    SIDE,
    painter,
    picture,
    predict_files,
    save_dicom,
    save_image,
    table,
)
from makers.volumes import volume, write_volume
from PIL import Image

from lake import InputError
from lake.labels import rle
from lake.picture import title, with_title
from lake.predictions import submission
from lake.predictions.folder import PREDICTIONS_CSV, REJECTS_CSV, SUBMISSION_CSV
from lake.records import example
from lake.scan import Storage
from lake.sources import reader
from trainer.config.run import Config, Data
from trainer.display.panel import font_file, share
from trainer.inference import decision, images
from trainer.inference.decision import Decision, Triplet
from trainer.inference.ensemble import Ensemble, Member
from trainer.models.build import build
from trainer.prediction import input_files, one_image, predict, vote
from trainer.prediction.one_image import OutputOptions
from trainer.training.ownership import claim
from trainer.workdir import BEST, LAKE, load_network, read_json, write_json, write_metrics


def masks_in(output: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    rows = submission.read(output / SUBMISSION_CSV, {k: math.prod(v) for k, v in sizes.items()})
    assert list(rows) == sorted(sizes)  # the order of the files
    return {name: rle.decode(text, *sizes[name]) > 0 for name, text in rows.items()}


@pytest.fixture
def shapes(tmp_path) -> dict[str, np.ndarray]:
    """Write images of many shapes to tmp_path/in: as large as the network, larger, smaller, oblong.

    Edges lie on pixels of the network, so that its masks can be exact.
    """
    images = {
        "a_square": picture(64, 64, (0, 0, 10, 20), (60, 50, 4, 14)),
        "b_wide": picture(48, 64, (5, 10, 30, 7), (47, 63, 1, 1)),
        "c_tall": picture(128, 96, (2, 4, 40, 60), (120, 88, 8, 8)),
        "d_small": picture(32, 32, (31, 0, 1, 5), (3, 20, 9, 12)),
        "e_empty": picture(128, 128),
        "f_full": picture(64, 40, (0, 0, 64, 40)),
    }
    (tmp_path / "in" / "below").mkdir(parents=True)
    for number, (name, pixels) in enumerate(images.items()):
        if number % 2:
            save_image(tmp_path / "in" / f"{name}.png", pixels)
        else:
            save_dicom(tmp_path / "in" / "below" / f"{name}.dcm", pixels, PixelSpacing=[0.2, 0.5])
    return images


def test_masks_lie_where_the_lesions_are(shapes, tmp_path):
    save_dicom(tmp_path / "in" / "g.dcm", picture(64, 64, (0, 0, 2, 2)), PixelSpacing=None)
    save_image(tmp_path / "in" / ".hidden.png", picture(64, 64))
    paths = [str(path) for path in (tmp_path / "in").rglob("*") if path.is_file()]
    inputs = input_files.from_files(
        [path for path in reversed(paths) if ".hidden" not in path], RADIOGRAPHS
    )
    predict.predict(painter(), HALF, inputs, tmp_path / "files", OutputOptions())
    predict_files(tmp_path / "in", tmp_path / "folder")
    outputs = [tmp_path / "files" / "submission.csv", tmp_path / "folder" / "submission.csv"]
    assert outputs[0].read_text() == outputs[1].read_text()
    rows = {row["ImageId"]: row for row in table(tmp_path / "folder" / PREDICTIONS_CSV)}
    texts = submission.read(outputs[0])
    for name, pixels in shapes.items():
        mask = rle.decode(texts[name], *pixels.shape) > 0
        assert (mask == (pixels == BRIGHT)).all(), name
        assert int(rows[name]["lesion_px"]) == mask.sum()
        spacing = 0.2 * 0.5 if name[0] in "ace" else None  # of the DICOM files
        area = rows[name]["area_mm2"]
        assert area == "" if spacing is None else float(area) == pytest.approx(mask.sum() * spacing)
        assert 0 <= float(rows[name]["probability"]) <= 1
    assert rows["g"]["area_mm2"] == ""
    # In the order of their paths, whatever the order they were given in.
    assert list(texts) == ["b_wide", "a_square", "c_tall", "e_empty", "d_small", "f_full", "g"]
    assert table(tmp_path / "folder" / REJECTS_CSV) == []


def test_a_shrunk_image_has_its_source_s_mask_and_area(tmp_path):
    """The converter's --max_side, and 16 bits beside 8."""
    (tmp_path / "in").mkdir()
    pixels = picture(256, 128, (32, 16, 64, 24))
    save_dicom(tmp_path / "in" / "deep.dcm", pixels, PixelSpacing=[0.1, 0.3])
    for bits in (8, 16):
        settings = reader.ReaderSettings(False, "name", Storage(bits=bits, max_side=64))
        predict_files(tmp_path / "in", tmp_path / f"out{bits}", settings)
        [row] = table(tmp_path / f"out{bits}" / PREDICTIONS_CSV)
        [mask] = masks_in(tmp_path / f"out{bits}", {"deep": (256, 128)}).values()
        assert (mask & (pixels == BRIGHT)).sum() / (mask | (pixels == BRIGHT)).sum() > 0.95
        assert float(row["area_mm2"]) == pytest.approx(mask.sum() * 0.1 * 0.3, rel=1e-4)


def test_one_file_without_pixels_among_100(tmp_path):
    (tmp_path / "in").mkdir()
    sizes = {}
    for number in range(98):
        name, box = f"image{number:02d}", (number % 16, 3, 1, 5)
        suffix = {10: "tif", 11: "bmp", 12: "gif"}.get(number, "png")
        save_image(tmp_path / "in" / f"{name}.{suffix}", picture(16, 16, box))
        sizes[name] = (16, 16)
    save_dicom(tmp_path / "in" / "image50.dcm", picture(16, 16))  # after image50.png's id
    save_dicom(tmp_path / "in" / "none.dcm", picture(16, 16), PixelData=None)
    (tmp_path / "in" / "half.png").write_bytes((tmp_path / "in" / "image00.png").read_bytes()[:-20])
    message = predict_files(tmp_path / "in", tmp_path / "out", system=painter(side=16))
    assert message.startswith("98 images predicted, 97 with a lesion; 3 rejected")
    masks = masks_in(tmp_path / "out", sizes | {"image50": (16, 16)})
    assert all(
        masks[f"image{n:02d}"].sum() == 5 and masks[f"image{n:02d}"][n % 16, 5]
        for n in range(98)
        if n != 50
    )
    rejects = table(tmp_path / "out" / REJECTS_CSV)
    assert [(Path(row["path"]).name, row["reason"], row["what"]) for row in rejects] == [
        ("half.png", "undecodable", "image"),
        ("image50.png", "duplicate-id", "image"),
        ("none.dcm", "no-pixels", "image"),
    ]
    assert all(row["path"] in row["message"] for row in rejects)


def test_a_lake_and_its_files_give_the_same(lake, phantoms, tmp_path):
    inputs = images.from_lake(str(lake), "test")
    system = painter(0.3, 0.9)
    predict.predict(system, HALF, inputs, tmp_path / "lake", OutputOptions(overlays=True))
    rows = submission.read(tmp_path / "lake" / SUBMISSION_CSV, 128 * 128)
    assert len(rows) == 8 and any(text != rle.EMPTY for text in rows.values())
    paths = [str(phantoms / "dicom" / f"{name}.dcm") for name in rows]
    files = input_files.from_files(paths, RADIOGRAPHS)
    predict.predict(system, HALF, files, tmp_path / "files", OutputOptions(overlays=True))
    assert submission.read(tmp_path / "files" / SUBMISSION_CSV) == dict(sorted(rows.items()))
    for name in ("lesion_px", "area_mm2", "probability"):
        both = (
            {row["ImageId"]: row[name] for row in table(tmp_path / folder / PREDICTIONS_CSV)}
            for folder in ("lake", "files")
        )
        assert next(both) == next(both)
    # A lake knows the truth, files do not.
    lake_overlay, file_overlay = (
        Image.open(tmp_path / folder / one_image.OVERLAYS / f"{next(iter(rows))}.png")
        for folder in ("lake", "files")
    )
    assert (lake_overlay.width, file_overlay.width) == (3 * 128, 2 * 128)
    [row] = [r for r in table(tmp_path / "lake" / PREDICTIONS_CSV) if r["ImageId"] == [*rows][0]]
    area_mm2 = float(row["area_mm2"] or 0)
    area = f", {area_mm2:,.0f} mm²" if area_mm2 else ""
    answer = f"p of a lesion {share(float(row['probability']))}{area}"
    text = title(system.title, [*rows][0], "test (phantoms 1.0.0)", answer, str(HALF))
    strips = with_title(np.zeros((0, 3 * 128, 3), np.uint8), text, 14, font_file())
    assert (np.asarray(lake_overlay)[: len(strips)] == strips).all()
    assert lake_overlay.height == 128 + 24 + len(strips)


def test_maps_and_overlays_are_of_the_source(shapes, tmp_path):
    predict_files(tmp_path / "in", tmp_path / "out", probabilities=True, overlays=True)
    for name, pixels in shapes.items():
        with Image.open(tmp_path / "out" / one_image.PROBABILITIES / f"{name}.png") as image:
            levels = np.asarray(image)
        assert levels.shape == pixels.shape and levels.dtype == np.uint8
        assert ((levels > 127) == (pixels == BRIGHT)).all()
        if set(pixels.shape) == {SIDE}:
            assert ((levels == 255) == (pixels == BRIGHT)).all()
        with Image.open(tmp_path / "out" / one_image.OVERLAYS / f"{name}.png") as overlay:
            assert overlay.width == 2 * pixels.shape[1]
    # A vote over three of the same, and the mean of their maps, are what they are.
    original = tmp_path / "out" / SUBMISSION_CSV
    vote.run([original] * 3, tmp_path / "voted.csv", None, None)
    assert (tmp_path / "voted.csv").read_text() == original.read_text()
    maps = tmp_path / "out" / one_image.PROBABILITIES
    vote.run([maps, maps], tmp_path / "averaged.csv", None, None)
    assert submission.read(tmp_path / "averaged.csv") == submission.read(original)


def test_segs_hold_the_masks_of_the_submission(tmp_path):
    """Where the source has no legal UID, or is no DICOM file, there is a reject and still a row."""
    (tmp_path / "in").mkdir()
    pixels = picture(64, 48, (3, 5, 20, 11))
    uids = {"a": "1.2.826.0.1.3680043.9.7", "b": "ID_b"}
    for name, uid in uids.items():
        save_dicom(tmp_path / "in" / f"{name}.dcm", pixels, SOPInstanceUID=uid)
    save_image(tmp_path / "in" / "c.png", pixels)
    for mint_uids, failed_ids in ((False, ["b", "c"]), (True, ["c"])):
        output = tmp_path / f"out{mint_uids}"
        message = predict_files(tmp_path / "in", output, seg="nodule", mint_uids=mint_uids)
        assert f"0 rejected, {len(failed_ids)} without a SEG" in message
        rejects = table(output / REJECTS_CSV)
        assert [row["image_id"] for row in rejects] == failed_ids
        assert {row["what"] for row in rejects} == {"seg"}
        masks = masks_in(output, dict.fromkeys("abc", (64, 48)))
        for name in {"a", "b"} - set(failed_ids):
            segmentation = highdicom.seg.segread(output / "seg" / f"{name}.dcm")
            [reference] = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
            uid = reference.ReferencedSOPInstanceUID
            mask = segmentation.get_pixels_by_source_instance([uid])[0, ..., 0]
            assert (mask > 0).tolist() == masks[name].tolist() == (pixels == BRIGHT).tolist()
            source = (
                output / "seg" / f"{name}.source.dcm" if name == "b" else tmp_path / "in" / "a.dcm"
            )
            assert pydicom.dcmread(source).SOPInstanceUID == uid
        assert len(list((output / "seg").iterdir())) == (3 if mint_uids else 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_ct", [False, True])
def test_a_series_is_one_seg_whatever_lies_between_its_slices(is_ct, tmp_path):
    """Two series in one folder, whose slices take turns; a slice of one is damaged, and last."""
    (tmp_path / "in").mkdir()
    volume_hu, places = body(5), positions(5)
    for k in range(5):
        first = slice_file(places[k], k, volume_hu[k])
        uids = {"SeriesInstanceUID": f"{ROOT}.6", "SOPInstanceUID": f"{ROOT}.7.{k}"}
        second = slice_file(places[k], k, volume_hu[::-1][k], SeriesNumber=3, **uids)
        (tmp_path / "in" / f"{k}a.dcm").write_bytes(first)
        (tmp_path / "in" / f"{k}b.dcm").write_bytes(second[:-50] if k == 4 else second)
    storage = Storage(16, 1024, window="-1000,400") if is_ct else Storage(8, 1024)
    settings = reader.ReaderSettings(is_ct, "name", storage)
    message = predict_files(tmp_path / "in", tmp_path / "out", settings, seg="nodule")
    assert message.startswith("9 images predicted") and "1 rejected" in message
    segs = {path.name: pydicom.dcmread(path) for path in (tmp_path / "out" / "seg").iterdir()}
    assert sorted(segs) == [f"{ROOT}.4.dcm", f"{ROOT}.6.dcm"]
    frames = [len(segs[name].PerFrameFunctionalGroupsSequence) for name in sorted(segs)]
    assert frames == [5, 4]
    for result, expected in zip((segs[name] for name in sorted(segs)), (5, 4), strict=True):
        masks = result.pixel_array
        truth = (volume_hu if expected == 5 else volume_hu[::-1][:4]) == 300
        assert (masks == truth).all()
        [measures] = result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        assert float(measures.SpacingBetweenSlices) == pytest.approx(3.0, abs=1e-3)
        assert result.SeriesDescription == "Nodule by radlake painter"
        assert "p > 0.5" in result.ContentDescription
    assert len({result.SeriesNumber for result in segs.values()} | {2, 3}) == 4


def test_candidates_lie_where_the_nodules_are(tmp_path):
    """Two balls in a volume and one in another, in world coordinates."""
    (tmp_path / "in").mkdir()
    spacing = (0.7, 0.9, 2.5)

    def ct(*balls: tuple[int, int, int, float]):
        """Return air with balls of tissue: column, row, slice of the centre and radius in mm."""
        voxels = np.full((12, 64, 64), -1000, np.int16)
        indices = np.stack(np.meshgrid(np.arange(12), np.arange(64), np.arange(64), indexing="ij"))
        for column, row, place, radius_mm in balls:
            apart = (indices - np.reshape((place, row, column), (3, 1, 1, 1))).T * spacing[::-1]
            voxels[radius_mm >= np.linalg.norm(apart, axis=-1).T] = 100
        return volume(voxels, spacing=spacing)

    write_volume(ct((20, 30, 4, 6.0), (50, 10, 8, 8.0)), tmp_path / "in", "one.mhd")
    write_volume(ct((33, 44, 6, 7.0)), tmp_path / "in", "two.nii.gz")
    write_volume(ct(), tmp_path / "in", "without.nrrd")
    settings = reader.ReaderSettings(
        True, "name", Storage(bits=16, max_side=1024, window="-1000,400")
    )
    message = predict_files(tmp_path / "in", tmp_path / "out", settings, candidates=True)
    assert message.startswith("36 images predicted")
    rows = table(tmp_path / "out" / "candidates.csv")
    actual = sorted((row["seriesuid"], float(row["diameter_mm"]), row) for row in rows)
    expected = [("one", 12.0, (20, 30, 4)), ("one", 16.0, (50, 10, 8)), ("two", 14.0, (33, 44, 6))]
    for (series, diameter_mm, row), (expected_series, expected_mm, index) in zip(
        actual, expected, strict=True
    ):
        assert series == expected_series and diameter_mm == pytest.approx(expected_mm, rel=0.1)
        at_mm = [float(row[f"coord{axis}"]) for axis in "XYZ"]
        origin_mm = (-120.5, 33.0, -210.25)
        np.testing.assert_allclose(at_mm, np.multiply(index, spacing) + origin_mm, atol=0.2)
        assert float(row["probability"]) == 1
    save_image(tmp_path / "in" / "x.png", picture(64, 64))
    with pytest.raises(InputError, match="--candidates"):
        predict_files(tmp_path / "in" / "x.png", tmp_path / "no", candidates=True)


def test_plainly_empty_masks_are_empty():
    """The short cut agrees with the long way, and is taken in some cases and not in others."""
    rng = np.random.default_rng(0)
    num_empty = 0
    for _ in range(200):
        side, height, width = (int(n) for n in rng.integers(16, 60, 3))
        p = (rng.random((side, side, 1)) * rng.random()).astype(np.float32)
        thresholds = Decision(
            Triplet(*(float(x) for x in rng.choice([0, 0.2, 0.5, p.max()], 3))),
            rng.choice([None, 0.5]),
        )
        lesion = np.float32(rng.random())
        settings = Data(side=16)
        sizes = decision.Sizes(side, side, height, width)
        resized = decision.resize_to_source(p, sizes, settings.model_copy(update={"side": side}))
        mask = decision.mask_of(resized, thresholds, lesion).numpy()
        is_empty = decision.is_plainly_empty(p.max(), thresholds, lesion)
        assert not (is_empty and mask.any())
        num_empty += is_empty
    assert 20 < num_empty < 180


@pytest.fixture(scope="module")
def workdirs(lake, tmp_path_factory) -> tuple[Path, Path]:
    """Write a segmenter and a classifier of random weights, as if they were trained on phantoms."""
    folders = []
    for name, model in (
        ("segmenter", {"kind": "unet", "filters": 2, "depth": 1}),
        ("classifier", {"kind": "classifier", "encoder": "plain", "filters": 2, "depth": 1}),
    ):
        workdir = tmp_path_factory.mktemp("runs") / name
        sections = {"model": model, "lake": str(lake), "data": {"side": 32, "batch_size": 3}}
        config = Config.model_validate(sections)
        keras.utils.set_random_seed(1)
        network = build(config.model, 32)
        claim(workdir, config, [json.loads((lake / "manifest.json").read_text())])
        network.save_weights(workdir / BEST)
        folders.append(workdir)
    return tuple(folders)


def commanded(capsys, *arguments) -> tuple[int, str]:
    code = trained.exit_code(*arguments)
    message = capsys.readouterr()
    return code, message.err + message.out


def test_the_commands(workdirs, phantoms, tmp_path, capsys):
    segmenter, classifier = workdirs
    members = ("--workdir", segmenter, "--classifier", classifier)
    code, message = commanded(capsys, "predict", *members, "--output", tmp_path / "early")
    assert code == 2 and "evaluate" in message  # no thresholds yet
    assert commanded(capsys, "evaluate", *members, "--bootstrap", 0)[0] == 0
    code, message = commanded(
        capsys, "predict", *members, "--split", "val", "--output", tmp_path / "a"
    )
    assert code == 0 and message.splitlines()[-1].startswith("8 images predicted")
    code, message = commanded(
        capsys, "predict", *members, "--input", phantoms / "dicom", "--output", tmp_path / "b"
    )
    assert code == 0 and "40 images predicted" in message
    everything = submission.read(tmp_path / "b" / SUBMISSION_CSV, 128 * 128)
    assert submission.read(tmp_path / "a" / SUBMISSION_CSV).items() <= everything.items()
    both = (tmp_path / "b" / SUBMISSION_CSV,) * 2
    assert commanded(capsys, "vote", *both, "--output", tmp_path / "vote.csv")[0] == 0
    assert submission.read(tmp_path / "vote.csv") == everything


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lake", "x", "--input", "y"], "--input takes files"),
        (["--input", "nowhere"], "nowhere: no such file"),
        (["--input", "s3://bucket/a.dcm"], "expected a local path or gs://BUCKET/PATH"),
        (["--seg", "cat", "--input", "x"], "--seg=cat"),
        (["--mint_uids"], "--mint_uids is for --seg"),
        (["--seg"], "give them to --input"),
        (["--candidates"], "--candidates needs to know"),
        (["--split", "nothing"], "'nothing'"),
        (["--overlay"], "did you mean --overlays?"),
        (["--output", "{used}"], "not an empty folder"),
        (["--input", "{texts}"], "no image in 1 files; the first: "),
    ],
)
def test_mistakes_of_a_user(workdirs, tmp_path, capsys, arguments, message):
    segmenter, _ = workdirs
    entry = {"triplet": HALF.triplet._asdict()}
    system = Ensemble([Member(segmenter, *load_network(segmenter))], ())
    entry |= {"weights_sha256": system.weights_sha256()}
    write_metrics(segmenter, {"evaluate": entry})
    (tmp_path / "used").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("used", "texts"):
        (tmp_path / name / "a.txt").write_text("a")
    arguments = [
        argument.format(used=tmp_path / "used", texts=tmp_path / "texts") for argument in arguments
    ]
    output = () if "--output" in arguments else ("--output", tmp_path / "out")
    code, report = commanded(capsys, "predict", "--workdir", segmenter, *output, *arguments)
    assert code == 2 and message in report
    assert not (tmp_path / "out" / SUBMISSION_CSV).exists()


def test_a_classifier_draws_no_masks(workdirs, lake, tmp_path):
    system = Ensemble((), [Member(workdirs[1], *load_network(workdirs[1]))])
    with pytest.raises(InputError, match="holds a classifier"):
        predict.predict(
            system, HALF, images.from_lake(str(lake), "val"), tmp_path / "o", OutputOptions()
        )


def test_members_of_lakes_stored_differently_are_refused(workdirs, tmp_path):
    for name, clahe in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        content = read_json(workdirs[0] / LAKE)
        content["options"]["clahe"] = clahe
        write_json(tmp_path / name / LAKE, content)
    config, network = load_network(workdirs[0])
    members = [Member(tmp_path / name, config, network) for name in "ab"]
    with pytest.raises(InputError, match="clahe=True"):
        images.reader_settings(Ensemble(members, ()))
    shown = {"modalities": {"CR": 40}, "body_parts": {"CHEST": 40}, "secondary_captures": 0}
    settings = images.reader_settings(Ensemble(members[:1], ()))
    assert settings == RADIOGRAPHS._replace(exams=(shown,))
    (tmp_path / "a" / LAKE).unlink()  # a run of before: the lake itself says how files are read
    assert images.reader_settings(Ensemble(members[:1], ())) == RADIOGRAPHS


@pytest.mark.parametrize(
    ("predictions", "options", "message"),
    [
        (["a.csv"], [], "two or more"),
        (["a.csv", "b.csv"], [], "lacks 1 ids of"),
        (["a.csv", "a.csv"], ["--votes", "3"], "--votes=3"),
        (["a.csv", "a.csv"], ["--triplet", "0,0,0"], "--triplet is for"),
        (["maps", "a.csv"], [], "not both"),
        (["maps", "maps"], ["--votes", "1"], "--votes is for"),
        (["maps", "maps"], ["--triplet", "0.5,2,0"], "--triplet=0.5,2,0"),
        (["maps", "maps"], ["--triplet", "0.5,x"], "--triplet=0.5,x"),
        (["maps", "none"], [], "no .png"),
        (
            ["maps", "larger"],
            [],
            "larger/a.png: uint8 [5, 4]; expected 8-bit grey levels, and the size of",
        ),
        (["maps", "colour"], [], "colour/a.png: uint8 [4, 4, 3]; expected"),
        (["maps", "deep"], [], "deep/a.png: uint16 [4, 4]; expected"),
    ],
)
def test_votes_that_cannot_be_held(tmp_path, capsys, predictions, options, message):
    (tmp_path / "a.csv").write_text("ImageId,EncodedPixels\na,-1\nb,-1\n")
    (tmp_path / "b.csv").write_text("ImageId,EncodedPixels\na,-1\n")
    for name, levels in (
        ("maps", np.zeros((4, 4), np.uint8)),
        ("none", None),
        ("larger", np.zeros((5, 4), np.uint8)),
        ("colour", np.zeros((4, 4, 3), np.uint8)),
        ("deep", np.zeros((4, 4), np.uint16)),
    ):
        (tmp_path / name).mkdir()
        if levels is not None:
            save_image(tmp_path / name / "a.png", levels)
    paths = [tmp_path / name for name in predictions]
    code, report = commanded(capsys, "vote", *paths, "--output", tmp_path / "o.csv", *options)
    assert code == 2 and message in report
    assert not (tmp_path / "o.csv").exists()
    code, report = commanded(capsys, "vote", *[tmp_path / "a.csv"] * 2, "--output", "/no/o.csv")
    assert code == 2 and "--output=/no/o.csv: No such file" in report


def test_the_mean_of_maps_equals_a_slow_one(tmp_path):
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 256, (3, 9, 7), np.uint8)
    for number, levels in enumerate(maps):
        (tmp_path / str(number)).mkdir()
        save_image(tmp_path / str(number) / "odd%2Fname%23.png", levels)
    vote.run([tmp_path / str(n) for n in range(3)], tmp_path / "o.csv", None, "0.9,0.01,0.6")
    rows = submission.read(tmp_path / "o.csv", 63)
    mean = maps.astype(np.float64).mean(axis=0) / 255
    assert (mean > 0.9).sum() < 0.63 or (mean > 0.6).any()
    keep = (mean > 0.6) if (mean > 0.9).sum() >= 0.01 * 63 else np.zeros((9, 7))
    assert rows == {"odd/name#": rle.encode(keep)}


def test_the_sample_s_submission_is_as_the_challenge_takes_it(real_data, tmp_path):
    """One row for each of 30 real files, in bounds, each read back as it was painted."""
    paths = sorted((real_data / "siim" / "dicom").glob("*.dcm"))[:30]
    inputs = input_files.from_files([str(path) for path in paths], RADIOGRAPHS)
    predict.predict(painter(0.3, 0.9), HALF, inputs, tmp_path / "out", OutputOptions())
    rows = submission.read(tmp_path / "out" / SUBMISSION_CSV, 1024 * 1024)
    submission.check_ids(tmp_path, rows, [path.stem for path in paths], "the files")
    areas = {row["ImageId"]: row for row in table(tmp_path / "out" / PREDICTIONS_CSV)}
    overlaps = []
    for path in paths[:8]:
        dataset = pydicom.dcmread(path)
        mask = rle.decode(rows[path.stem], 1024, 1024) > 0
        blocks = dataset.pixel_array.reshape(SIDE, 16, SIDE, 16).mean(axis=(1, 3))
        bright = np.kron(blocks > 0.6 * 255, np.ones((16, 16), bool))
        overlaps.append(2 * (mask & bright).sum() / max(1, mask.sum() + bright.sum()))
        row_mm, column_mm = dataset.PixelSpacing
        area = float(areas[path.stem]["area_mm2"])
        assert area == pytest.approx(mask.sum() * row_mm * column_mm, rel=1e-5)
    assert np.median(overlaps) > 0.9


def test_records_of_files_are_as_the_converter_writes_them(phantoms, lake):
    """But for the label and for what tells of the patient."""
    shards = [str(path) for path in lake.glob("*-val.tfrecord-*")]
    records = [example.decode(each) for each in tf.data.TFRecordDataset(shards).as_numpy_iterator()]
    records = {fields["image_id"]: fields for fields in records}
    paths = [str(phantoms / "dicom" / f"{name.decode()}.dcm") for name in records]
    for record in input_files.from_files(paths, RADIOGRAPHS).records():
        fields = example.decode(record)
        theirs = records[fields["image_id"]]
        same = ("image", "encoding", "height", "width", "window", "rescale", "pixel_spacing_mm")
        same += ("original_height", "original_width", "original_bits")
        assert {name: fields[name] for name in same} == {name: theirs[name] for name in same}
        assert (fields["label"], fields["patient"], fields["has_mask"]) == (-1, b"", 0)


def test_the_image_of_a_jpeg_file_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 64, (8, 16, 24, 32))).save(buffer, "JPEG", quality=95)
    (tmp_path / "in" / "x.jpeg").write_bytes(buffer.getvalue())
    predict_files(tmp_path / "in", tmp_path / "out")
    [mask] = masks_in(tmp_path / "out", {"x": (64, 64)}).values()
    assert (mask == (picture(64, 64, (8, 16, 24, 32)) == BRIGHT)).all()
