"""The README's commands for a fleet do what it says: they print, and do nothing."""

import importlib
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_readme_s_dry_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    section = (ROOT / "README.md").read_text().split("## On a fleet")[1]
    block = section.split("```")[1].replace("\\\n", " ")
    commands = [shlex.split(line) for line in block.strip().splitlines()]
    assert [words[2] for words in commands] == ["launch.dataflow", "launch.vertex", "launch.tpu_vm"]
    for _, _, module, *words in commands:
        assert words[-1] == "--dry_run"
        assert importlib.import_module(module).main(words) == 0
        assert re.search("beam.convert|workerPoolSpecs|queued-resources", capsys.readouterr().out)
