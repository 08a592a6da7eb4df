"""Draws phantom CT volumes, as MetaImage files, and writes a CSV of their nodules.

    python -m beam.synthetic_ct --output FOLDER [--volumes 8] [--seed 0]

A volume is a body with two lungs, and a ball for a nodule in the first lung: enough to try a
conversion of CT, or a network that finds balls."""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import sys
from pathlib import Path

import numpy as np

from beam import synthetic
from lake import signals, storage
from lake.terminal import cli

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"  # LUNA16's
SPACING_MM = np.array([3.0, 2.8, 2.8])  # z, y, x
SHAPE = (12, 128, 128)
AIR_HU, TISSUE_HU, LUNG_HU, NODULE_HU, NOISE_HU = -1000, 40, -850, 30, 10
BODY = np.s_[:, 20:108, 10:118]
LUNGS = np.s_[:, 35:90, 20:58], np.s_[:, 35:90, 70:108]
CENTRES_MM = (12, 130, 90), (22, 220, 130)  # lowest and highest (z, y, x)
DIAMETERS_MM = 14, 24  # lowest and highest


def write(output: Path, volumes: int, seed: int = 0) -> None:
    """Write ct0.mhd … and annotations.csv; a volume does not depend on how many follow it. Raises
    InputError where `output` has files of another run."""
    import SimpleITK as sitk  # takes 0.3 s

    names = [f"ct{number}" for number in range(volumes)]
    synthetic.make_room(output, {f"{name}.mhd" for name in names}, "*.mhd")
    signals.set_repeat("the same command writes all files again")
    rng = np.random.default_rng(seed)
    rows = [HEADER]
    for name in names:
        hu, centre_mm, diameter_mm = draw(rng)
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing(SPACING_MM[::-1].tolist())
        sitk.WriteImage(image, output / f"{name}.mhd")
        rows.append(",".join(map(str, [name, *centre_mm[::-1], diameter_mm])))
    storage.write(output / "annotations.csv", "".join(f"{row}\n" for row in rows).encode())


def draw(rng) -> tuple[np.ndarray, np.ndarray, float]:
    """Return HU [slices, rows, columns] int16, and the nodule's centre (z, y, x) and diameter in
    mm."""
    places_mm = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING_MM  # [S, H, W, 3]
    hu = rng.normal(0, NOISE_HU, SHAPE) + AIR_HU
    hu[BODY] = TISSUE_HU
    for lung in LUNGS:
        hu[lung] = LUNG_HU
    centre_mm, diameter_mm = rng.uniform(*CENTRES_MM), float(rng.uniform(*DIAMETERS_MM))
    hu[np.linalg.norm(places_mm - centre_mm, axis=-1) <= diameter_mm / 2] = NODULE_HU
    return hu.astype(np.int16), centre_mm, diameter_mm


def parser() -> argparse.ArgumentParser:
    """Return the parser of beam.synthetic_ct."""
    summary, example = __doc__.splitlines()[0], "--output ct --volumes 8"
    parser = cli.parser("beam.synthetic_ct", summary, example=example)
    add = parser.add_argument_group("volumes").add_argument
    output_help = "for ct0.mhd … and annotations.csv"
    add("--output", type=Path, required=True, metavar="FOLDER", help=output_help)
    add("--volumes", type=cli.at_least(1), default=8, metavar="N", help="how many")
    seed = "what is drawn; a volume does not depend on how many there are"
    add("--seed", type=cli.at_least(0), default=0, metavar="N", help=seed)
    return parser


def main(argv: list[str]) -> int:
    flags, _ = cli.parse(parser(), argv)
    return cli.exit_code(lambda: write(**vars(flags)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
