"""The commands of the getting-started page, small: on success their stderr has no line that is not
ours."""

import os
import re
import subprocess
import sys
from pathlib import Path

from makers.marks import exhaustive

ROOT = Path(__file__).parents[2]
# Progress, and the one line about the secret of the pseudonyms.
OURS = re.compile(
    r"(?:drawing|listing|converting|predicting|scoring|verifying|[a-z ]+): [\d,]+ of [\d,]+ .*"
    r"|created .*: the secret that hashes patient ids; .*"
)
SMALL = ["--data.side=32", "--data.batch_size=4", "--model.depth=2", "--model.filters=4"]


@exhaustive
def test_stderr_of_the_whole_page_has_no_line_of_others(tmp_path):
    lake, run = "lakes/phantoms/1.0.0", "runs/unetpp"
    commands = [
        "synthetic --output data --images 40 --seed 1 --side 64 --positive_share 0.4",
        "convert --images data/dicom/*.dcm --labels data/train-rle.csv --splits "
        f"train=0.6,val=0.2,test=0.2 --output {lake}",
        f"show {lake} --sheet sheet.png",
        f"verify {lake}",
        f"train --config demo_unetpp --lake {lake} --workdir {run} --train.epochs=1 "
        + " ".join(SMALL),
        f"evaluate --workdir {run} --picture picture.png",
        f"predict --workdir {run} --input data/dicom --output predictions --overlays",
        f"export --workdir {run} --output exported",
    ]
    environment = {name: value for name, value in os.environ.items() if "TF_CPP" not in name}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    others = {}
    for command in commands:
        process = subprocess.run(
            [sys.executable, "-m", "radlake", *command.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, (command, process.stderr)
        lines = process.stderr.replace("\r", "\n").splitlines()
        others[command] = [line for line in lines if not OURS.fullmatch(line)]
    assert {command: lines for command, lines in others.items() if lines} == {}
