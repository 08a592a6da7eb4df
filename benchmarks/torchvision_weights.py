"""Weights of torchvision's MobileNetV2 -> a file that Keras's MobileNetV2 reads right.

    python benchmarks/torchvision_weights.py FILE.weights.h5 OUTPUT.weights.h5

FILE has torchvision's tensors in the layout of keras.applications. Both networks have the same
layers, but three numbers differ that no file of weights holds:

    pixels      torchvision's are (p - mean) / deviation of each colour of ImageNet, Keras's are
                2 p - 1, for p in [0, 1]. Both are worked into the first convolution and its norm.
    epsilon     of batch norm: 1e-5 there, 1e-3 in Keras, which would shrink channels of a small
                variance. Worked into gamma.
    padding     before a stride of 2: on both sides there, behind the image alone in Keras. It
                shifts features by a pixel, and is left as it is. A side of 32 n + 1 px pads alike
                in both; there the features agree.

What remains is the image's border: torchvision pads with ImageNet's mean grey, Keras with 0.5.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import h5py
import numpy as np

from trainer.models import weight_files

# ImageNet's colours, as torchvision.transforms has them for its weights.
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
EPSILON, EPSILON_OF_KERAS = 1e-5, 1e-3
FIRST_CONVOLUTION, FIRST_NORM = "Conv1", "bn_Conv1"


def for_keras(tensors: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Return the tensors {layer: [kernel] or [gamma, beta, mean, variance]} with torchvision's
    pixels and epsilon worked in."""
    result = {name: [np.float64(tensor) for tensor in layer] for name, layer in tensors.items()}
    # With y = 2 p - 1, torchvision's pixel is y / (2 deviation) + (0.5 - mean) / deviation. The
    # second part is the same number at all places, so that the norm's mean can take it.
    [kernel] = result[FIRST_CONVOLUTION]  # [3, 3, 3 colours, filters]
    offset = np.einsum("hwcf,c->f", kernel, (0.5 - MEAN) / DEVIATION)
    result[FIRST_CONVOLUTION] = [kernel / (2 * DEVIATION)[:, None]]
    result[FIRST_NORM][2] = result[FIRST_NORM][2] - offset
    for layer in result.values():
        if len(layer) == 4:
            gamma, beta, mean, variance = layer
            factor = np.sqrt((variance + EPSILON_OF_KERAS) / (variance + EPSILON))
            layer[:] = gamma * factor, beta, mean, variance
    return {name: [np.float32(tensor) for tensor in layer] for name, layer in result.items()}


def read(path: Path) -> dict[str, list[np.ndarray]]:
    """Return {layer: its tensors} of a .weights.h5 of keras.applications."""
    with h5py.File(path) as file:
        return {
            name: [np.asarray(tensor) for tensor in tensors]
            for (name,), tensors in weight_files.read_tensors(file).items()
            if tensors
        }


def convert(path: Path, output: Path) -> Path:
    """Write the file that Keras reads right; return its path."""
    tensors = for_keras(read(path))
    unfinished = output.with_suffix(".part")
    shutil.copyfile(path, unfinished)
    unfinished.chmod(0o644)
    with h5py.File(unfinished, "r+") as file:
        for (name,), datasets in weight_files.read_tensors(file).items():
            for dataset, values in zip(datasets, tensors.get(name, ()), strict=True):
                dataset[...] = values
    unfinished.replace(output)
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("output", type=Path)
    flags = parser.parse_args()
    print(convert(flags.file, flags.output))
