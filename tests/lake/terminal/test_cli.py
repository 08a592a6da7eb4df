"""lake/terminal/cli.py: what every command promises about its options and exit codes."""

import argparse
import math

import pytest

from lake import InputError, Stopped
from lake.terminal import cli


def raising(error: Exception):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        (lambda: None, 0, "", ""),
        (lambda: {"a": 1}, 0, "", ""),
        (lambda: "20 images", 0, "20 images\n", ""),
        (lambda: 42, 42, "", ""),
        (raising(InputError("--a=1: expected 2")), 2, "", "error: --a=1: expected 2\n"),
        (raising(Stopped("the disk is full")), 1, "", "failed: the disk is full\n"),
        (raising(OSError("Forbidden: b/x")), 2, "", "error: Cloud Storage refuses: Forbidden: b/x"),
    ],
)
def test_the_exit_code_of_a_command(command, code, out, err, capsys):
    assert cli.exit_code(command) == code
    output = capsys.readouterr()
    assert output.out == out and output.err.startswith(err) and output.err.count("\n") <= 1


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(KeyError):
        cli.exit_code(raising(KeyError("a")))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.at_least(1), ["1", "7"], ["0", "-1"]),
        (cli.at_least(0.1, float), ["0.1", "1e9"], ["0.09", "nan", "inf"]),
        (cli.at_least(64, highest=128), ["64", "128"], ["63", "129"]),
        (cli.share, ["0", "0.5", "1"], ["-0.1", "1.1", "nan"]),
        (cli.between(0, 1), ["0.001", "0.999"], ["0", "1", "nan"]),
        (cli.between(0, math.inf), ["7"], ["0", "inf"]),
        (cli.matching("[a-z]+", "a-z"), ["abc"], ["", "abC", "abc\n"]),
        (cli.remote_folder, ["gs://bucket/a"], ["gs://bucket", "gs://bucket/", "a/b", "s3://b/a"]),
        (cli.local_path, ["a/b"], ["gs://bucket/a"]),
        (cli.any_path, ["a/b"], ["s3://b/a", "gs:///a"]),
    ],
)
def test_types_of_options(kind, good, bad):
    for text in good:
        assert kind(text) == type(kind(text))(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            kind(text)


def test_an_option_is_not_abbreviated(capsys):
    parser = cli.parser("radlake", "A line\n  and another.")
    parser.add_argument("--images")
    add = cli.subcommands(parser)("show").add_argument
    add("--split")
    assert parser.parse_args(["show", "--split=a"]).command == "show"
    for words in (["--im=a", "show"], ["show", "--sp=a"]):
        with pytest.raises(SystemExit, match="^2$"):
            parser.parse_args(words)
    assert "A line\n  and another." in parser.format_help()
