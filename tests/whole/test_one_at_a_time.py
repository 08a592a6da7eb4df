"""Two conversions, predictions or exports into one folder at once: the second is refused, with the
first process's number, before a file changes; what a killed one left keeps nobody."""

import os
from pathlib import Path

import pytest
from makers.marks import exhaustive
from makers.trained import exit_code

from beam import convert
from beam import predict as beam_predict
from lake import lock
from lake.predictions import folder
from trainer.serving import output_folder

PREDICTING = folder.LOCK, *folder.LOCK_WORDS
CONVERTING = convert.LOCK, *convert.LOCK_WORDS


def texts(root: Path) -> dict[str, bytes]:
    """Return {path: bytes} of all files of a folder but the locks, which are written anew."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): path.read_bytes() for path in paths}


def check(run, output: Path, words: tuple[str, str, str], capsys) -> None:
    """Run a command beside a process at work, and again where that one was killed."""
    with lock.hold(output, *words):
        before = texts(output)
        assert run() == 2
        assert texts(output) == before
    message = capsys.readouterr().err
    expected = f"error: {output}: process {os.getpid()} on "
    assert message.startswith(expected) and message.count("\n") == 1
    assert f" {words[1]} here; wait until it has ended, or {words[2]}" in message
    output.mkdir(parents=True, exist_ok=True)
    left = lock._this_process()._replace(pid=1, start="of a process that was killed")
    (output / words[0]).write_bytes(lock._text(left, 3))
    assert run() == 0
    assert not [*output.glob("*.lock*")]


def test_of_two_conversions_one_is_refused(phantoms, key_file, tmp_path, capsys):
    output = tmp_path / "lakes" / "x" / "1.0.0"
    words = [f"--images={phantoms}/dicom/*0.dcm", f"--labels={phantoms}/train-rle.csv"]
    words += [f"--output={output}", f"--deidentify_key_file={key_file}", "--runner=DirectRunner"]
    check(lambda: convert.main(words), output, CONVERTING, capsys)
    before = texts(output)
    assert convert.main(words) == 0  # finished: the lock is no file that was written
    assert "nothing was written" in capsys.readouterr().out
    assert texts(output) == before


@pytest.mark.parametrize("is_beam", [False, pytest.param(True, marks=exhaustive)])
def test_of_two_predictions_one_is_refused(is_beam, systems, exported, phantoms, tmp_path, capsys):
    output, images = tmp_path / "out", sorted((phantoms / "dicom").glob("*.dcm"))[:1]
    options = [*systems["cascade"], "--output", output, "--input", *images]
    words = [f"--model={exported}", f"--images={images[0]}", f"--output={output}"]

    def run() -> int:
        if is_beam:
            return beam_predict.main([*words, "--runner=DirectRunner"])
        return exit_code("predict", *options)

    check(run, output, PREDICTING, capsys)
    assert run() == 0
    message = capsys.readouterr()
    assert "error" not in message.err


def test_of_two_exports_one_is_refused(systems, tmp_path, capsys):
    output, link = tmp_path / "models" / "out", tmp_path / "link"
    output.parent.mkdir()
    link.symlink_to(output.parent)
    with output_folder.alone_in(output), output_folder.whole(output) as unfinished_folder:
        (unfinished_folder / "saved_model.pb").write_bytes(b"its first half")
        before = texts(tmp_path)
        for path in (output, link / "out"):
            assert exit_code("export", *systems["deep"], "--output", path) == 2
            message = capsys.readouterr().err
            assert message.startswith(f"error: {output.parent}: process {os.getpid()} on ")
            assert message.endswith(
                " exports out here; wait until it has ended, or give another --output\n"
            )
            assert texts(tmp_path) == before
        with output_folder.alone_in(output.with_name("other")):
            pass
    assert texts(tmp_path) == {str(output / "saved_model.pb"): b"its first half"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "link",
        "models",
        "out",
        "saved_model.pb",
    ]
