"""Disks that are full or refuse to be written, also for root: before the work, and during it."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from makers.marks import exhaustive
from makers.runs import weights

from lake import InputError, disk, storage
from trainer import task

ROOT = Path(__file__).parents[2]
TINY = """
model: {kind: unet, depth: 1, filters: 4, norm: batch}
data: {side: 32, batch_size: 4}
train: {epochs: 3, device: cpu, steps_per_call: 3}
"""
FULL = os.strerror(errno.ENOSPC)


@pytest.fixture
def nowhere(tmp_path) -> list[Path]:
    """Folders that nobody can make: inside a file, and where the system has none to give."""
    (tmp_path / "file").write_bytes(b"")
    return [tmp_path / "file" / "run", Path("/proc/nowhere/run")]


def test_a_folder_is_tried_without_a_trace(tmp_path, nowhere):
    disk.check_writable(tmp_path / "a" / "b")
    disk.check_writable(tmp_path)
    disk.check_writable(Path("relative"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for folder in nowhere:
        with pytest.raises(InputError, match=f"{folder}: cannot be written: .*; choose another"):
            disk.check_writable(folder)


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, FULL)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=f"{tmp_path}: cannot be written: {FULL}; make room"):
        disk.check_writable(tmp_path)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(OSError, match=FULL):
        disk.check_room(tmp_path, 10**18)
    disk.check_room(tmp_path, 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, FULL, "/run/x"), "/run/x: No space left on device; make room"),
        (PermissionError(errno.EACCES, "", "/lake"), "/lake: Permission denied; choose another"),
        (OSError(errno.EROFS, "", "/run/x"), "/run/x: Read-only file system; choose another"),
        (  # TensorFlow
            ValueError("{{function_node w}} /a b/c-3_temp; No space left on device [Op:SaveV2]"),
            "/a b/c-3_temp: No space left on device; make room there, then repeat the command",
        ),
        (  # h5py
            OSError("[Errno 28] Can't write (time = 1\n, filename = '/r/b.h5', errno = 28, error "
                    "message = 'No space left on device', buf = 0x55)"),
            "/r/b.h5: No space left on device; make room",
        ),
        (OSError(errno.ENOSPC, FULL), "a file could not be written: No space left on device"),
        (OSError(errno.EPIPE, "Broken pipe", "/x"), None),
        (FileNotFoundError(errno.ENOENT, "", "/x"), None),
        (ValueError("no room for this"), None),
    ],
)  # fmt: skip
def test_what_a_disk_refuses_is_said_with_its_path(error, message):
    text = disk.advice(error)
    assert text is None if message is None else text.startswith(message)
    with contextlib.suppress(RuntimeError):
        try:
            raise error
        except type(error) as cause:
            raise RuntimeError("the step failed") from cause
    outer = RuntimeError("the step failed")
    outer.__cause__ = error
    assert disk.advice(outer) == text


def test_a_file_that_finds_no_room_leaves_none_and_is_named(tmp_path):
    with (
        pytest.raises(InputError, match=f"{tmp_path / 'scores.json'}: {FULL}; make room there"),
        storage.explain_errors(),
        storage.whole_file(tmp_path / "scores.json") as path,
    ):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, FULL)
    assert not [*tmp_path.iterdir()]


def test_every_command_says_it_before_its_work(systems, lake, phantoms, nowhere, tmp_path, capsys):
    from beam import convert

    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    run, cascade = [f"--config={config}", f"--lake={lake}"], [*map(str, systems["cascade"])]
    labels = [f"--images={phantoms}/dicom/*.dcm", f"--labels={phantoms}/train-rle.csv"]
    labels += ["--deidentify=keep", "--runner=DirectRunner"]
    for folder in nowhere:
        commands = [
            (task, ["train", *run, f"--workdir={folder}"]),
            (task, ["find_lr", *run, f"--workdir={folder}"]),
            (task, ["augment", *run, f"--output={folder}/sheet.png"]),
            (task, ["evaluate", *cascade, f"--report={folder}/report.html"]),
            (task, ["predict", *cascade, f"--output={folder}"]),
            (task, ["export", *cascade, f"--output={folder}"]),
            (convert, [*labels, f"--output={folder}/lake/1.0.0"]),
        ]
        for module, words in commands:
            assert module.main(words) == 2, words
            message = capsys.readouterr().err
            assert message.startswith("error: ") and message.count("\n") == 1, message
            assert f"{folder}" in message and "cannot be written" in message, message


def test_the_table_of_evaluate_is_printed_whatever_happens_to_its_files(
    systems, tmp_path, monkeypatch, capsys
):
    workdir = shutil.copytree(systems["cascade"][1], tmp_path / "run")
    words = ["evaluate", f"--workdir={workdir}", "--bootstrap=0"]
    write_bytes = Path.write_bytes

    def write_without_room(path: Path, content: bytes):
        if path.name == "unfinished.metrics.json":
            raise OSError(errno.ENOSPC, FULL)
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_without_room)
    before = (workdir / "metrics.json").read_bytes()
    assert task.main(words) == 2
    streams = capsys.readouterr()
    assert streams.err == (
        f"error: {workdir}/metrics.json: {FULL}; make room there, then repeat the command\n"
    )
    assert str(workdir) in streams.out and "threshold" in streams.out
    assert (workdir / "metrics.json").read_bytes() == before


@pytest.fixture
def small_disk(tmp_path):
    """Yield a function that mounts a disk of so many kilobytes."""
    folders = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user may not mount a disk")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@exhaustive
@pytest.mark.parametrize("kilobytes", [4, 40, 100, 160, 240])
def test_a_run_on_a_disk_that_fills_goes_on_when_there_is_room(
    small_disk, lake, tmp_path, kilobytes
):
    """It fills before the first step, at a checkpoint, at weights or at curves."""
    config, workdir = tmp_path / "tiny.yaml", small_disk(kilobytes) / "run"
    config.write_text(TINY)
    command = [sys.executable, "-m", "trainer.task", "train", f"--config={config}"]
    command += [f"--lake={lake}", "--train.deterministic=true"]
    streams = {"cwd": ROOT, "capture_output": True, "text": True}
    process = subprocess.run([*command, f"--workdir={workdir}"], **streams)
    message = process.stderr.splitlines()[-1]
    assert process.returncode == 2, process.stderr
    assert message.startswith(f"error: {workdir}") and "make room there" in message, message
    assert "Traceback" not in process.stderr
    grow = ["mount", "-o", "remount,size=20m", str(workdir.parent)]
    subprocess.run(grow, check=True)
    expected = tmp_path / "expected"
    for folder in (workdir, expected):
        assert subprocess.run([*command, f"--workdir={folder}"], **streams).returncode == 0
    actual = weights(workdir)
    for name, values in weights(expected).items():
        assert actual[name].tobytes() == values.tobytes(), name
    assert not [*workdir.rglob("unfinished*")]


@exhaustive
def test_a_read_only_disk_is_one_message(small_disk, lake, tmp_path):
    config, folder = tmp_path / "tiny.yaml", small_disk(4000)
    config.write_text(TINY)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    command = [sys.executable, "-m", "trainer.task", "train", f"--config={config}"]
    command += [f"--lake={lake}", f"--workdir={folder / 'run'}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    message = f"error: {folder / 'run'}: cannot be written: Read-only file system; choose another"
    assert process.stderr.splitlines()[-1].startswith(message)
