"""Quick to say no: what is imported before options, configs and paths are checked; what the help
has; what --quiet, --verbose and a typing error do."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lake import __version__
from lake.terminal import cli, command_line, console, suggestions
from lake.terminal.progress import Line
from radlake import shipped
from radlake.words import WORDS
from trainer import options
from trainer.config.run import Config

ROOT = Path(__file__).parents[2]
HEAVY = ("tensorflow", "keras", "apache_beam", "pydicom", "matplotlib", "SimpleITK", "pyarrow")
HEAVY += ("google.api_core", "google.auth", "google.cloud.storage", "h5py", "highdicom")
HEAVIER_THAN_HELP = ("pydantic",)  # 0.3 s, for what needs a config
LAUNCH = "--project=p --workdir=gs://b/w --lake=gs://b/l"
# Lines with one mistake in a value, a path or a config; each ends with exit code 2.
MISTAKES = [
    "convert --images=nothing/*.dcm --output=l/n/1.0.0 --unlabelled=keep",
    "convert --images=README.md --output=l/n/1 --unlabelled=keep",
    "convert --images=README.md --output=l/n/1.0.0 --unlabelled=kep",
    "convert --images=README.md --output=l/n/1.0.0 --labels=nothing.csv",
    "convert --images=README.md --output=l/n/1.0.0 --unlabelled=keep --splits=a",
    "convert --imges=README.md --output=l/n/1.0.0",
    "convert_table nothing",
    "synthetic --output=README.md/x --side=1",
    "synthetic_ct --output=x --volumes=0",
    "show nothing",
    "verify nothing",
    "find nothing --patient=1",
    "find nothing --patient=1 --everywhere=gs://b/runs",
    "erase nothing --patient=1",
    "erase nothing --patient=1 --everywhere=gs://b/runs",
    "write_lake nothing --to=png --output=o",
    "configs --al",
    "train --config=nothing --lake=l --workdir=w",
    "train --config=unetpp --lake=nothing --workdir=w",
    "train --config=unetpp --lake=nothing --workdir=w --model.kind=unetp",
    "train --confg=unetpp --lake=l --workdir=w",
    "find_lr --config=unetpp --lake=nothing",
    "evaluate --workdir=nothing",
    "evaluate --workdir=nothing --tta=mirror",
    "predict --workdir=nothing --output=o",
    "export --workdir=nothing --output=o",
    "predict_files --model=nothing --images=README.md --output=o",
    "tune --config=unetpp --lake=nothing --space=s --trials=2 --workdir=w",
    "average --workdir=nothing --output=o",
    "vote nothing nobody --output=o",
    "froc nothing --labels=README.md",
    "augment --config=unetpp --lake=nothing",
    "benchmark --config=unetpp --lake=nothing",
    "launch cluster --workers=2 -- no_such_command",
    "launch slurm --nodes=2 -- radlake convert",
    "launch slurm --dry_run -- radlake train --config=nothing --lake=l --workdir=w",
    "launch dataflow --projct=p",
    f"launch tpu_vm --config=nothing --accelerator=v2-8 --zone=z {LAUNCH}",
    f"launch vertex --config=nothing --accelerator=t4 --region=r --image=i {LAUNCH}",
]
CODE = """
import contextlib, io, json, sys
from radlake import command
def run(words):
    streams = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with streams[0], streams[1]:
            return command.main(words)
    except SystemExit as end:
        return end.code
report, before = {}, set()
for line in json.load(sys.stdin):
    code = run(line)
    names = {name for name in HEAVY if name in sys.modules} - before
    report[" ".join(line)] = [code, sorted(names)]
    before |= names
print(json.dumps(report))
"""


def report(lines: list[list[str]], heavy: tuple[str, ...]) -> dict[str, list]:
    """Return {line: [exit code, the heavy modules that it was first to import]}, all in one
    process."""
    code = f"HEAVY = {heavy!r}\n{CODE}"
    command = [sys.executable, "-c", code]
    process = subprocess.run(
        command, cwd=ROOT, input=json.dumps(lines), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_help_imports_nothing_heavy():
    lines = [[*word.split(), "--help"] for word in WORDS]
    outcome = report(lines, HEAVY + HEAVIER_THAN_HELP)
    assert {line: pair for line, pair in outcome.items() if pair != [0, []]} == {}


def test_a_mistake_is_answered_before_anything_heavy_is_imported():
    outcome = report([shlex.split(line) for line in MISTAKES], HEAVY)
    assert {line: pair for line, pair in outcome.items() if pair != [2, []]} == {}
    words = {line.split()[0] for line in MISTAKES} | {" ".join(m.split()[:2]) for m in MISTAKES}
    assert words >= {*WORDS}


# --- help ---


def parser_of(word: str) -> command_line.Parser:
    entry = WORDS[word]
    parser = importlib.import_module(entry.module).parser()
    for name in entry.leading:
        parser = parser.subparsers()[name]
    return parser


@pytest.mark.parametrize("word", WORDS)
def test_help_has_groups_defaults_and_examples_that_are_right(word):
    parser = parser_of(word)
    text = " ".join(parser.format_help().split())
    groups = {group.title: group._group_actions for group in parser._action_groups}
    assert not groups["options"] and not groups["positional arguments"]
    for action in parser._actions:
        assert action.help, action.dest
        has_default = action.default not in (None, False, "", (), []) and action.nargs != 0
        if has_default and "SUPPRESS" not in str(action.default):
            values = action.default if isinstance(action.default, list) else [action.default]
            default = " ".join(map(str, values))
            assert "default" in action.help or f"(default: {default})" in text, action.dest
    lines = re.findall(rf"^  {re.escape(parser.prog)} (.*)$", parser.epilog, re.MULTILINE)
    assert lines and "example" in parser.epilog
    for line in lines:
        if word != "configs":  # whose example is a pipe
            parser.parse_known_args(shlex.split(line))


def test_help_of_train_has_every_section_and_config():
    text = parser_of("train").format_help()
    assert {*options.SECTIONS} == {*Config.model_fields} - {"lake"}
    for name in (*options.SECTIONS, *shipped.names()):
        assert f"\n  {name} " in text


# --- what was probably meant ---


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --confg=unetpp", "unknown option --confg; did you mean --config?"),
        ("train --config unetpp --lak l", "unknown option --lak; did you mean --lake?"),
        ("train --nothing --xyz", "unknown options --nothing, --xyz; "),
        ("convert --imagse 'a/*'", "unknown option --imagse; did you mean --images?"),
        ("convert --rnner=DirectRunner", "unknown option --rnner; did you mean --runner?"),
        ("export --level=al", "al: expected a depth, or all"),
        ("convert --source=dicm", "'dicm': expected one of dicom, images, metaimage; did you mean"),
        ("predict --workdirs w", "unknown option --workdirs; did you mean --workdir?"),
        ("evaluate --workdir w --tta=flop", "flop: expected none, flip, or a scale from 0.25 to 4"),
        ("launch dataflow --projct=p", "unknown option --projct; did you mean --project?"),
        ("show a b", "b: expected no more values"),
    ],
)
def test_a_typing_error_gets_the_nearest(line, message, capsys):
    from radlake import command

    with pytest.raises(SystemExit, match="^2$"):
        command.main(shlex.split(line))
    output = capsys.readouterr().err
    assert message in output and output.count("\n") == 1


def test_the_nearest_of_names():
    assert suggestions.nearest("UNETPP", ["vae", "unetpp"]) == ["unetpp"]
    assert suggestions.question("zzz", ["vae", "unetpp"]) == ""
    assert suggestions.question("verifi", ["verify", "convert"], 2) == "did you mean verify?"


def test_beams_options_are_found_without_beam():
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam.running.options import is_beams

    parser = command_line.Parser(conflict_handler="resolve")
    ours = {*parser.option_names()}
    for section in PipelineOptions.__subclasses__():
        if section.__module__ == "apache_beam.options.pipeline_options":
            section._add_argparse_args(parser)
    assert [name for name in parser.option_names() if name not in ours and not is_beams(name)] == []
    assert not is_beams("--imges")


# --- --version, --quiet, --verbose ---


@pytest.mark.parametrize("word", WORDS)
def test_every_command_has_a_version(word, capsys):
    from radlake import command

    with pytest.raises(SystemExit, match="^0$"):
        command.main([*word.split(), "--version"])
    assert capsys.readouterr().out == f"radlake {__version__}\n"


def test_quiet_leaves_out_progress(tmp_path, capsys):
    from beam import synthetic

    for words in ([], ["--quiet"], ["--verbose"]):
        folder = f"--output={tmp_path}/{''.join(words)}"
        assert synthetic.main([folder, "--images=1", "--side=64", "--processes=1", *words]) == 0
        assert console.is_quiet() == (words == ["--quiet"])
        assert console.is_verbose() == (words == ["--verbose"])
        capsys.readouterr()
        Line().show("how far it is", is_last=True)
        console.note("neither a result nor a warning")
        output = capsys.readouterr()
        assert ("" in (output.err, output.out)) == (words == ["--quiet"])
    cli.parse(synthetic.parser(), ["--output=x"])
    assert not console.is_quiet()
