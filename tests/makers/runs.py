"""Training runs from the command line, and what they leave: curves and weights."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer import task as command_line


def weights(workdir: Path) -> dict[str, np.ndarray]:
    """What the newest checkpoint holds."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {
        name: np.asarray(reader.get_tensor(name)) for name in names if "save_counter" not in name
    }


ROOT = Path(__file__).parents[2]
SMALL = [
    *("--data.side=32", "--data.batch_size=8", "--model.depth=2", "--model.filters=8"),
    *("--train.epochs=4", "--train.steps_per_call=1", "--train.device=cpu"),
]

TINY = """
model: {kind: unetpp, depth: 1, filters: 4, norm: batch, dropout: 0.2}
data: {side: 16, batch_size: 4}
optimizer: {ema: 0.9}
train: {epochs: 1, device: cpu, steps_per_call: 3}
"""


FINDINGS = """
model: {kind: classifier, encoder: plain, filters: 4, depth: 1, findings: all}
data: {side: 16, batch_size: 4, positive_share: [0.5, 0.5]}
optimizer: {learning_rate: 0.1, warmup_epochs: 0}
train: {epochs: 1, device: cpu, steps_per_call: 3}
"""


def command(config: Path, lake: Path, workdir: Path, *options: str) -> list[str]:
    """Return the words of a training for trainer.task."""
    return ["train", f"--config={config}", f"--lake={lake}", f"--workdir={workdir}", *options]


def train_tiny(folder: Path, lake: Path) -> None:
    """Train two epochs of TINY, each of two calls of 3 steps, in folder/run."""
    config = folder / "tiny.yaml"
    config.write_text(TINY)
    assert command_line.main(command(config, lake, folder / "run", "--train.epochs=2")) == 0


def train_findings(folder: Path, lake: Path) -> None:
    """Train an epoch of FINDINGS in folder/run."""
    config = folder / "findings.yaml"
    config.write_text(FINDINGS)
    assert command_line.main(command(config, lake, folder / "run")) == 0


def task(*arguments: object, config_name: str | None = "unetpp") -> subprocess.CompletedProcess:
    """python -m trainer.task; in a process of its own where logical devices are divided, which
    happens once, at their first use."""
    options = list(map(str, arguments))
    if arguments[0] == "train" and config_name:
        options += ["--config", str(ROOT / "configs" / f"{config_name}.yaml")]
    if any(one.startswith("--train.replicas") for one in options):
        command = [sys.executable, "-m", "trainer.task", *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line.main(options)
    return subprocess.CompletedProcess(options, code, out.getvalue(), err.getvalue())


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """{tag: {step: value}} of a folder of event files."""
    result = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    result.setdefault(value.tag, {})[event.step] = float(
                        tf.make_ndarray(value.tensor)
                    )
    return result


def losses(workdir: Path) -> list[float]:
    return [value for _, value in sorted(scalars(workdir / "train")["loss"].items())]
