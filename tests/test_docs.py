"""The reference in docs/ is what the code says, and the commands in docs/scale.md are commands."""

import re
import runpy
import shlex
from pathlib import Path

from beam import options
from trainer import task

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "reference.py"


def test_the_reference_is_up_to_date():
    found = runpy.run_path(str(SCRIPT))["text"]()
    assert found == SCRIPT.with_suffix(".md").read_text(), "run python docs/reference.py"
    # Each comment is its field's own.
    assert "| `data.side` | `1024` | `int`, ≥ 16, a multiple of 16 | the network's input" in found
    assert "| `train.keep` | `1` | `int`, ≥ 1 | so many of the best epochs' weights; above" in found


def test_the_commands_of_the_scale_page_parse():
    text = (ROOT / "docs" / "scale.md").read_text()
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").strip().splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    assert len(commands) > 3
    for _, *words in commands:
        match words:
            case ["-m", "beam.convert", *given]:
                flags, others = options.parser().parse_known_args(given)
                options.check_beam_arguments(others)
                assert flags.estimate
            case ["-m", "trainer.task", *given]:
                _, overrides = task.parser().parse_known_args(given)
                assert all(re.match(r"--\w+\.\w", word) for word in overrides)
            case [script]:
                assert (ROOT / script).is_file()
            case _:
                raise AssertionError(words)
