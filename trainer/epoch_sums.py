"""The sums of an epoch's steps so far, a part of each checkpoint: an epoch that was interrupted has
the scores of all its steps."""

import json

import numpy as np
import tensorflow as tf


class EpochSums(tf.train.experimental.PythonState):
    """{name: number or array}, float64; in a checkpoint as JSON, which keeps every bit of them."""

    def __init__(self):
        self.values = {}

    def add(self, sums: dict) -> None:
        for name, value in sums.items():
            self.values[name] = self.values.get(name, 0) + np.asarray(value, np.float64)

    def take(self) -> dict:
        """Those of a whole epoch; the next one starts without."""
        values, self.values = self.values, {}
        return values

    def serialize(self) -> str:
        return json.dumps({name: value.tolist() for name, value in self.values.items()})

    def deserialize(self, text: bytes) -> None:
        self.values = {name: np.array(value) for name, value in json.loads(text).items()}
