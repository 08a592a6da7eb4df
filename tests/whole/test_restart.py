"""Repeated, changed, killed and starved conversions."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from makers import lakes, volumes
from makers.marks import exhaustive

from beam import convert as converter
from beam.running import files
from lake import Refused

ROOT = Path(__file__).parents[2]


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


def inputs(folder: Path) -> tuple[Path, Path]:
    return folder / "dicom" / "*.dcm", folder / "train-rle.csv"


@pytest.fixture
def phantoms_copy(phantoms, tmp_path) -> Path:
    """Phantoms that a test may change."""
    folder = tmp_path / "copy"
    (folder / "dicom").mkdir(parents=True)
    for path in phantoms.glob("dicom/*.dcm"):
        (folder / "dicom" / path.name).write_bytes(path.read_bytes())
    (folder / "train-rle.csv").write_bytes((phantoms / "train-rle.csv").read_bytes())
    return folder


@pytest.mark.slow
def test_a_repeat_writes_what_is_missing_or_changed_and_else_nothing_and_says_so(
    phantoms_copy, convert, tmp_path, capsys
):
    output = tmp_path / "phantoms" / "1.0.0"
    first = convert(*inputs(phantoms_copy), output)
    assert "nothing was written" not in capsys.readouterr().out
    before, content = stamps(output), lakes.shards_of(output)
    for path in list(phantoms_copy.glob("dicom/*.dcm"))[:3]:
        os.utime(path, (0, 0))  # the same bytes, written at another time
    assert convert(*inputs(phantoms_copy), output) == first  # also the moment of its creation
    assert stamps(output) == before
    assert f"nothing was written: {output} has all of this" in capsys.readouterr().out

    victim = sorted(content)[0]
    (output / victim).unlink()
    convert(*inputs(phantoms_copy), output)
    after = stamps(output)
    assert lakes.shards_of(output) == content
    assert {name for name in content if after[name] != before[name]} == {victim}

    lines = (phantoms_copy / "train-rle.csv").read_text().splitlines()
    position = next(n for n, text in enumerate(lines) if text.endswith("-1"))
    lines[position] = lines[position].removesuffix("-1") + "5 3"
    (phantoms_copy / "train-rle.csv").write_text("\n".join(lines) + "\n")
    fresh = tmp_path / "fresh" / "phantoms" / "1.0.0"
    with pytest.raises(Refused, match="images in another split, such as .* of 12 shards"):
        convert(*inputs(phantoms_copy), output)
    convert(*inputs(phantoms_copy), output, "--replace")
    convert(*inputs(phantoms_copy), fresh)
    assert content != lakes.shards_of(output) == lakes.shards_of(fresh)


def test_a_finished_version_is_never_dealt_anew(phantoms_copy, convert, tmp_path, key_file, capsys):
    output, later = tmp_path / "phantoms" / "1.0.0", phantoms_copy / "later"
    later.mkdir()
    paths = sorted(phantoms_copy.glob("dicom/*.dcm"))
    for path in paths[:10]:
        path.rename(later / path.name)
    convert(*inputs(phantoms_copy), output)
    before = stamps(output)
    for path in paths[:10]:
        (later / path.name).rename(path)
    capsys.readouterr()
    images, labels = inputs(phantoms_copy)
    arguments = [f"--images={images}", f"--labels={labels}", f"--output={output}", "--folds=2"]
    assert converter.main([*arguments, f"--deidentify_key_file={key_file}"]) == 2
    [*_, message] = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: {output} is finished, and this command would change it: ")
    for part in ("10 images more; ", " images in another split, such as ", " in another fold; "):
        assert part in message
    assert " shards written anew; " in message
    assert "; --folds 2 instead of 0. Nothing was written. " in message
    assert message.endswith("or write this one anew: --replace")
    assert stamps(output) == before
    # Fewer images, and none that moves: the splits are those of the version itself.
    for path in paths[:12]:
        path.unlink()
    with pytest.raises(Refused, match=r"change it: 2 images fewer; \d+ of \d+ shards"):
        convert(*inputs(phantoms_copy), output, f"--splits_from={output}")


def test_voxels_that_changed_behind_their_header_are_noticed(tmp_path):
    voxels = np.random.default_rng(0).integers(-900, 900, (3, 16, 20)).astype(np.int16)
    path = volumes.write_volume(volumes.volume(voxels), tmp_path)
    arguments = [f"--images={path}", "--source=metaimage", "--unlabelled=keep"]
    arguments += [f"--output={tmp_path}/ct/1.0.0", "--deidentify=keep"]
    converter.run(arguments)
    data_path = path.with_suffix(".raw")
    data = data_path.read_bytes()
    data_path.write_bytes(data)
    os.utime(data_path, (0, 0))
    converter.run(arguments)  # the same bytes
    data_path.write_bytes(data[2:] + data[:2])
    with pytest.raises(Refused, match=r"change it: \d of \d shards written anew"):
        converter.run(arguments)


@exhaustive
def test_a_lake_of_a_writer_with_fewer_counts_is_repeated(tmp_path, capsys):
    voxels = np.random.default_rng(0).integers(-900, 900, (3, 16, 20)).astype(np.int16)
    path, output = volumes.write_volume(volumes.volume(voxels), tmp_path), tmp_path / "ct" / "1.0.0"
    arguments = [f"--images={path}", "--source=metaimage", "--unlabelled=keep"]
    arguments += [f"--output={output}", "--deidentify=keep"]
    content = converter.run(arguments)
    # As radlake wrote it until 29 November 2026.
    earlier = {*("files", "images", "records", "rejects", "slices_left_out"), "splits"}
    earlier |= {"labels_without_image", "grouped_by"}
    old = {key: content[key] for key in content.keys() - {"earlier_lakes", "warnings"}}
    old["counts"] = {key: content["counts"][key] for key in earlier}
    (output / "manifest.json").write_text(json.dumps(old))
    before = stamps(output)
    capsys.readouterr()
    converter.run(arguments)
    assert f"nothing was written: {output} has all of this" in capsys.readouterr().out
    assert stamps(output) == before
    for counts in ({"files": 2}, {"flat_views": 1}):  # what it does say has to be the same
        (output / "manifest.json").write_text(json.dumps(old | {"counts": old["counts"] | counts}))
        with pytest.raises(Refused, match=f"{[*counts][0].replace('_', ' ')} . instead of"):
            converter.run(arguments)


RARER = "--bits=16", "--clahe", "--window=10,200", "--image_id=hash"


@exhaustive
@pytest.mark.parametrize(
    "option", ["--max_side=64", *(pytest.param(option, marks=exhaustive) for option in RARER)]
)
def test_other_options_never_reuse_a_shard(phantoms, convert, tmp_path, option):
    output, fresh = (tmp_path / name / "phantoms" / "1.0.0" for name in ("used", "fresh"))
    convert(*inputs(phantoms), output)
    with pytest.raises(Refused, match=option.replace("=", " ").split(",")[0]):
        convert(*inputs(phantoms), output, option)
    convert(*inputs(phantoms), output, option, "--replace")
    convert(*inputs(phantoms), fresh, option)
    assert lakes.shards_of(output) == lakes.shards_of(fresh)


def test_shards_of_another_layout_and_unfinished_files_are_removed(phantoms, convert, tmp_path):
    output = tmp_path / "phantoms" / "1.0.0"
    convert(*inputs(phantoms), output, "--min_shards=6")
    unfinished_shard = output / f"phantoms-train.tfrecord-00000-of-00004{files.UNFINISHED}abc"
    unfinished_shard.write_bytes(b"x")
    (output / ".work" / f"x.json{files.UNFINISHED}abc").write_bytes(b"x")
    manifest = convert(*inputs(phantoms), output, "--min_shards=2", "--replace")
    assert lakes.shards_of(output).keys() == {shard["name"] for shard in manifest["shards"]}
    assert not list(output.rglob(f"*{files.UNFINISHED}*"))


def test_a_file_that_cannot_be_written_is_one_message_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    expected = "cannot write .*file: No space left on device"
    with pytest.raises(Refused, match=expected), files.whole_file(str(path)) as file:
        file.write(b"x" * 10)
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
    with pytest.raises(Refused, match="cannot write"), files.whole_file("/proc/nowhere/x"):
        pass


def test_what_another_worker_removes_first_is_gone(tmp_path, monkeypatch):
    path, delete = tmp_path / "a", FileSystems.delete
    path.touch()

    def late(paths):
        path.unlink()
        delete(paths)

    monkeypatch.setattr(FileSystems, "delete", late)
    files.remove(str(path))
    (tmp_path / "b").touch()
    monkeypatch.setattr(FileSystems, "delete", lambda _: delete([str(path)]))
    with pytest.raises(BeamIOError):  # what stays is an error
        files.remove(str(tmp_path / "b"))


@exhaustive  # the error alone is above
def test_a_full_disk_stops_the_job_and_the_lake_is_absent(phantoms, key_file, tmp_path):
    small_disk = tmp_path / "small"
    small_disk.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small_disk)]
    if subprocess.run(size, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    output = small_disk / "phantoms" / "1.0.0"
    try:
        process = subprocess.run(command(phantoms, output, key_file), cwd=ROOT, capture_output=True)
        error = process.stderr.decode().splitlines()
        assert process.returncode == 2 and "No space left on device" in error[-1]
        assert error[-1].startswith("error: cannot write ") and b"Traceback" not in process.stderr
        assert not (output / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
        subprocess.run(command(phantoms, output, key_file), cwd=ROOT, check=True)
        assert json.loads((output / "manifest.json").read_text())["counts"]["records"] == 40
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


def command(folder: Path, output: Path, key_file: Path) -> list[str]:
    images, labels = inputs(folder)
    arguments = [f"--images={images}", f"--labels={labels}", f"--output={output}"]
    arguments += [f"--deidentify_key_file={key_file}", "--runner=DirectRunner", "--min_shards=8"]
    return [sys.executable, "-m", "beam.convert", *arguments]


@exhaustive
def test_killed_at_random_moments_it_ends_as_if_undisturbed(phantoms, key_file, tmp_path):
    """RADLAKE_KILLS sets how often."""
    expected_folder, output = (
        tmp_path / "a" / "phantoms" / "1.0.0",
        tmp_path / "b" / "phantoms" / "1.0.0",
    )
    start_s = time.monotonic()
    subprocess.run(command(phantoms, expected_folder, key_file), cwd=ROOT, check=True)
    seconds = time.monotonic() - start_s
    generator = random.Random(0)
    for _ in range(int(os.environ.get("RADLAKE_KILLS", 4))):
        process = subprocess.Popen(command(phantoms, output, key_file), cwd=ROOT)
        time.sleep(generator.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (output / "manifest.json").exists():  # it was quicker: its lake must be whole
            assert lakes.shards_of(output) == lakes.shards_of(expected_folder)
    subprocess.run(command(phantoms, output, key_file), cwd=ROOT, check=True)
    assert lakes.shards_of(output) == lakes.shards_of(expected_folder)
    assert (output / "index.parquet").read_bytes() == (
        expected_folder / "index.parquet"
    ).read_bytes()
