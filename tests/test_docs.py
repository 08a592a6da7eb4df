"""The reference in docs/ is what the code says."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "docs" / "reference.py"


def test_the_reference_is_up_to_date():
    found = runpy.run_path(str(SCRIPT))["text"]()
    assert found == SCRIPT.with_suffix(".md").read_text(), "run python docs/reference.py"
    # Each comment is its field's own.
    assert "| `data.side` | `1024` | `int`, ≥ 16, a multiple of 16 | the network's input" in found
    assert "| `train.keep` | `1` | `int`, ≥ 1 | so many of the best epochs' weights; above" in found
