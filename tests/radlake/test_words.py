"""The command radlake: what each word calls, what a mistake is answered, configs by their names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import radlake
from lake import InputError
from lake.terminal import cli
from radlake import command, shipped
from radlake.words import WORDS, Word, spellings
from trainer.config import files

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("word", WORDS)
def test_every_word_has_help_under_its_name(word, monkeypatch, capsys):
    monkeypatch.setattr(cli, "SPELLINGS", spellings("radlake"))
    with pytest.raises(SystemExit, match="^0$"):
        command.main([*word.split(), "--help"])
    output = capsys.readouterr().out
    assert output.startswith(f"usage: radlake {word} ")
    assert "python -m" not in output


def test_the_overview_lists_the_words_and_needs_none_of_their_packages():
    code = (
        "import sys; from radlake import command\n"
        "try: command.main(['--help'])\n"
        "finally: print(sorted({'apache_beam', 'keras', 'numpy', 'tensorflow'} & {*sys.modules}))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    *lines, module_names = process.stdout.splitlines()
    assert (process.returncode, module_names) == (0, "[]")
    assert [line.split("  ")[1] for line in lines if line.startswith("  ")][2:] == [*WORDS]


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="^0$"):
        command.main(["--version"])
    assert capsys.readouterr().out == f"radlake {radlake.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convrt"], "radlake convrt: no such command; did you mean convert or convert_table?"),
        (["find-lr", "--steps=3"], "radlake find-lr: no such command; did you mean find_lr?"),
        (["launc"], "did you mean launch?"),
        (["launch", "vertx"], "radlake launch vertx: no such command; did you mean launch vertex"),
        (["0"], "radlake 0: no such command; radlake --help lists them all"),
    ],
)
def test_an_unknown_word_gets_the_nearest(words, message, capsys):
    assert command.main(words) == 2
    output = capsys.readouterr().err
    assert message in output and output.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["launch"]])
def test_without_a_word_the_overview_is_an_error(words, capsys):
    assert command.main(words) == 2
    output = capsys.readouterr().err
    assert ("  convert  " in output) == (not words) and "  launch vertex  " in output


# --- extras ---


def test_a_missing_package_is_one_message_with_its_extra(tmp_path):
    """As where only `pip install radlake` was said: pydantic and TensorFlow are not there."""
    code = (
        "import sys\n"
        "for name in ('pydantic', 'tensorflow', 'keras', 'yaml'): sys.modules[name] = None\n"
        "from radlake import command\n"
        "sys.exit(command.main(sys.argv[1:]))"
    )

    def run(*words: object) -> tuple[int, str]:
        process = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True
        )
        return process.returncode, process.stderr

    exit_code, message = run("train", "--config=unetpp", "--lake=a/b/1.0.0", "--workdir=w")
    assert exit_code == 2 and message.count("\n") == 1
    assert re.search(r"error: \w+ is not installed.*pip install 'radlake\[train\]'", message)
    assert run("synthetic_ct", f"--output={tmp_path}", "--volumes=1") == (0, "")


def test_a_module_of_radlake_that_is_missing_is_no_extra():
    with pytest.raises(ModuleNotFoundError, match="trainer.nothing"):
        command.call(Word("trainer.nothing", (), "", "train"), [])


# --- what a user is told to type ---


def test_commands_in_messages_are_spelled_as_the_user_types_them(monkeypatch):
    names = ["lake verify", "beam.table", "trainer.task vote", "launch.vertex", "radlake configs"]
    names.append("lake write")
    assert [cli.typed_command(name) for name in names] == [f"python -m {name}" for name in names]
    monkeypatch.setattr(cli, "SPELLINGS", spellings("radlake"))
    words = ["verify", "convert_table", "vote", "launch vertex", "configs", "write_lake"]
    assert [cli.typed_command(name) for name in names] == [f"radlake {word}" for word in words]


def test_python_m_radlake_says_so():
    process = subprocess.run(
        [sys.executable, "-m", "radlake", "verify", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.endswith("; python -m radlake verify --help lists the options\n")


# --- configs ---


def test_a_config_is_found_by_its_name_and_a_file_by_its_path(tmp_path):
    config = files.load("unetpp_small", [])
    assert config == files.load(ROOT / "configs" / "unetpp_small.yaml", [])
    mine = tmp_path / "unetpp_small.yaml"
    files.save(config, mine)
    assert files.load(mine, ["--data.side=64"]).data.side == 64
    for path in ("unetpp_small.yaml", "./unetpp_small", "gs://b/unetpp_small", Path("a/b")):
        assert shipped.find(path) == path


def test_an_unknown_name_lists_the_names():
    with pytest.raises(InputError, match="did you mean unetpp_small.*classifier, .*xception_unet"):
        files.load("unetpp-small", [])


def test_the_list_has_a_line_with_a_sentence_per_config(capsys):
    assert command.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert [line.split()[0] for line in lines] == names
    assert all(re.fullmatch(r"\w+  +[A-Z][^\n]{30,}\.", line) for line in lines)
    content = yaml.safe_load((shipped.folder() / "vae.yaml").read_text())
    assert content["model"]["kind"] == "vae"
