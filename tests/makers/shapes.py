"""Shapes of lesions."""

import numpy as np


def ellipse(height: int, width: int, row: int, column: int, tall: int, wide: int) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return ((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 <= 1
