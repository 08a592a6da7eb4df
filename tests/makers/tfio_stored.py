"""What serving/decode/tfio.py makes of DICOM files, for test_tfio.py, which runs beside another
TensorFlow.

PYTHON tests/makers/tfio_stored.py FOLDER NPZ, by the Python of requirements/tfio.txt: an array
`FILE FIELD` for each file of the folder and each field of StoredImage.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import tensorflow as tf

from lake.scan import Storage
from trainer.serving.decode import tfio

STORAGE = Storage(16, None)  # every level is there


def main(folder: Path, output: Path) -> None:
    stored_image, arrays = graph(STORAGE), {}
    for path in folder.iterdir():
        image = stored_image(tf.constant(path.read_bytes()))
        fields = zip(image._fields, image, strict=True)
        arrays |= {f"{path.name} {name}": value.numpy() for name, value in fields}
    np.savez(output, **arrays)


def graph(storage: Storage):
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda data: tfio.stored_image(data, storage), input_signature=signature)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
