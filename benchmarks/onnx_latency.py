"""The latency of an ONNX export in onnxruntime beside that of the SavedModel, on this CPU.

    python benchmarks/onnx_latency.py unetpp_small lungs_small [--rounds 3] [--side 1024]

Builds each config's network with random weights, which take as long as trained ones, and exports it
in both formats. Both answer the same noise images, one per call, in turns; each with as many
threads as it takes by itself. Prints medians, their ratio, the sizes of the files, and how far the
answers are apart. Noise puts many p beside the threshold: masks of real images differ less.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from PIL import Image

from lake.predictions.exported import GRAPH, PIXELS
from lake.scan import ReaderSettings, Storage
from trainer.config import files
from trainer.inference.decision import Decision, Triplet
from trainer.inference.ensemble import Ensemble
from trainer.inference.views import Member
from trainer.models.build import build
from trainer.serving import graph, onnx_graph

DECISION = Decision(Triplet(0.5, 0.0, 0.5))


def exports_of(name: str, folder: Path) -> tuple:
    """Return the SavedModel's signature and the session of one config, and both sizes in MB."""
    config = files.load(name, [], lake="lakes/noise/1.0.0")
    keras.utils.set_random_seed(0)
    network = build(config.model.model_copy(update={"weights": None}), config.data.side)
    ensemble = Ensemble([Member(folder, config, network)], [])
    server = graph.Server(ensemble, DECISION, Storage(bits=8, max_side=1024))
    # As of CT, which no graph reads: there are no signatures of files, which take long to trace.
    settings = ReaderSettings(True, "name", server.storage)
    traced = graph.signatures(server, settings, GRAPH)[PIXELS]()
    graph.save({PIXELS: traced}, str(folder))
    content = onnx_graph.convert(onnx_graph.trace(server), "{}")
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    saved = tf.saved_model.load(str(folder)).signatures[PIXELS]
    return saved, onnxruntime.InferenceSession(content), num_bytes / 1e6, len(content) / 1e6


def measure(name: str, rounds: int, side: int) -> None:
    """Print the line of one config."""
    with tempfile.TemporaryDirectory() as folder:
        saved, session, saved_mb, onnx_mb = exports_of(name, Path(folder))
    rng = np.random.default_rng(0)
    window = np.float32([[0, 255]])
    seconds, differences, different = {"saved": [], "onnx": []}, [], 0
    for round_number in range(rounds + 1):  # the first warms up
        pixels = rng.integers(0, 256, (1, side, side)).astype(np.uint8)
        start = time.perf_counter()
        outputs = saved(pixels=tf.constant(pixels), window=tf.constant(window))
        outputs = {key: tensor.numpy() for key, tensor in outputs.items()}
        middle = time.perf_counter()
        names = ["probability", "mask"]
        p, mask = session.run(names, {"pixels": pixels, "window": window})
        end = time.perf_counter()
        if round_number > 0:
            seconds["saved"].append(middle - start)
            seconds["onnx"].append(end - middle)
        differences.append(abs(p[0] - outputs["probability"][0]))
        png = Image.open(io.BytesIO(outputs["mask_bytes"][0]))
        different += int(np.count_nonzero((np.asarray(png) > 0) != mask[0]))
    saved_ms, onnx_ms = (1000 * statistics.median(values) for values in seconds.values())
    print(
        f"{name}: SavedModel {saved_ms:.0f} ms ({saved_mb:.1f} MB), ONNX {onnx_ms:.0f} ms "
        f"({onnx_mb:.1f} MB), ratio {onnx_ms / saved_ms:.2f}; p apart by at most "
        f"{max(differences):.1e}, mask pixels {different / (rounds + 1) / side**2:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1024, help="px of the stored image")
    flags = parser.parse_args()
    for name in flags.configs:
        measure(name, flags.rounds, flags.side)


if __name__ == "__main__":
    main()
