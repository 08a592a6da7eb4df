"""What an append of 1% costs beside the conversion of all, in CPU, start-up taken off both.

python benchmarks/append.py --images 'data/dicom/*.dcm' --labels data/train-rle.csv

The images are listed 10 times over, as links with names of their own.
"""

import shutil

from conversion import TIMES, convert, inputs, listed

SHARE = 0.01


def main() -> None:
    with inputs(__doc__.splitlines()[0]) as (folder, paths, labels):
        few = listed(paths[:8], labels, folder / "few", 1)
        start = convert(few, folder, "start")["cpu"]
        images = listed(paths, labels, folder / "all", TIMES)
        links = sorted(images.glob("*.dcm"))
        later = folder / "later"
        later.mkdir()
        for link in links[:: round(1 / SHARE)]:
            shutil.move(link, later)
        first = convert(images, folder, "lake", "--unlabelled=keep")["cpu"] - start
        for link in later.iterdir():
            shutil.move(link, images)
        append = convert(images, folder, "lake", "--unlabelled=keep", "--append")["cpu"] - start
        print(
            f"{len(links)} paths: {first:.1f} s of CPU; appending {SHARE:.0%}: {append:.1f} s, "
            f"{append / first:.0%}; the start, taken off both: {start:.1f} s"
        )


if __name__ == "__main__":
    main()
