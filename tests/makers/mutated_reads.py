"""Damaged files, read in a process of their own: what becomes of each, and what it costs.

python tests/makers/mutated_reads.py KIND COUNT reads COUNT mutations of the seeds of a KIND (dicom,
pictures, volumes, labels) and prints how many are rejects, the same pixels or others, by coding.

Each file is read twice, while the C library fills the memory that it hands out with another byte:
pixels that nothing wrote differ between the two.
"""

import contextlib
import ctypes
import hashlib
import io
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from makers import mutation_seeds, mutations  # noqa: E402

from lake import InputError, Reject  # noqa: E402
from lake.labels import coco, columns, tables  # noqa: E402
from lake.scan import Scan, Storage  # noqa: E402
from lake.sources import reader  # noqa: E402
from lake.sources.volumes import series  # noqa: E402

# What one file may cost.
CPU_S, BYTES, BYTES_PER_PIXEL = 10, 250_000_000, 30
STORAGES = (Storage(16, None), Storage(8, 24), Storage(8, None, "percentile"))
FRAMES = 3  # of a file that are read
M_PERTURB = -6  # of mallopt(3)


class Mutant:
    """One damaged file: where it lies, and what of it was read."""

    def __init__(self, kind: str, number: int, seeds: dict[str, bytes]):
        rng = random.Random(f"{kind} {number}")
        self.kind, self.name = kind, list(seeds)[number % len(seeds)]
        self.storage = STORAGES[number // len(seeds) % len(STORAGES)]
        self.data = mutations.MUTATORS[kind](seeds[self.name], rng)
        self.pixels = 0  # that its header states

    def scans(self, folder: Path) -> Iterator[Scan]:
        """Yield the scans of the file's first frames or slices; raise Reject."""
        suffix = self.name.split()[0] if self.kind == "volumes" else self.kind
        data, path = self.data, str(folder / f"a.{suffix}")
        if suffix == "mhd":
            data, _, voxels = data.partition(b"\0")
            for name in ("a.raw", "a.zraw"):
                (folder / name).write_bytes(voxels)
        Path(path).write_bytes(data)
        source = {"dicom": "dicom", "pictures": "images", "volumes": "metaimage"}[self.kind]
        headers = reader.read_headers(source, io.BytesIO(data), path, len(data), "name", "each")
        self.pixels = max(header.height * header.width for header in headers)
        if self.kind == "volumes":
            # A header's slices can be a million; stack_slices is asked for the first ones alone.
            header = headers[0]
            few = replace(header.geometry, slices=min(header.geometry.slices, FRAMES))
            headers = series.stack_slices([replace(header, geometry=few)])
        for header in headers[:FRAMES]:
            yield reader.read_scan(source, self, header, self.storage)

    def read(self, path: str) -> bytes:
        return self.data

    def local(self, path: str) -> str:
        return path

    def digest(self, folder: Path) -> str:
        """Return a hash of all that is read, or the reason of the Reject."""
        content = hashlib.blake2b(digest_size=12)
        try:
            if self.kind == "labels":
                content.update(
                    repr(label_rows(self.data, self.name == "COCO")).encode(
                        "utf-8", "surrogateescape"
                    )
                )
            else:
                for scan in self.scans(folder):
                    content.update(repr((scan.image, scan.rescale, scan.height)).encode())
        except (Reject, InputError) as reject:
            if len(str(reject)) > 2000:
                raise ValueError(f"a message of {len(str(reject))} characters") from None
            return getattr(reject, "reason", "InputError")
        return content.hexdigest()


def label_rows(data: bytes, is_coco: bool) -> list:
    """Return (id, label or reason) of each image of a label file; raise InputError."""
    layout = columns.Layout("rle", is_coco=is_coco)
    try:
        if is_coco:
            coco.check(io.BytesIO(data), "labels.json", ())
            rows = list(coco.read(io.BytesIO(data), "labels.json", ()))
        else:
            layout = columns.layout(io.BytesIO(data), "labels.csv")
            rows = list(tables.read(io.BytesIO(data), layout))
    except tables.DAMAGED as error:
        raise InputError(str(error)[:500]) from None
    by_id, outcomes = {}, []
    for image_id, row in rows:
        by_id.setdefault(image_id, []).append(row)
    for image_id, rows in by_id.items():
        try:
            if layout.kind == "nodule":
                outcomes.append((image_id, [row.value for row in rows]))
                continue
            outcomes.append((image_id, tables.unite(rows, layout.kind, 14, 9, "relative")))
        except Reject as reject:
            outcomes.append((image_id, reject.reason))
    return outcomes


# --- the child ---


def read_all(kind: str, first: int, count: int) -> None:
    """Read mutations and print a line of JSON for each; the process may be ended by one."""
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seeds, expected = mutation_seeds.SEEDS[kind](), {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            mutant = Mutant(kind, number, seeds)
            damaged, mutant.data = mutant.data, seeds[mutant.name]
            key = mutant.name, mutant.storage
            if key not in expected:
                expected[key] = mutant.digest(Path(folder))
                if len(expected[key]) != 24:
                    raise ValueError(f"the seed {key} is a reject: {expected[key]}")
            mutant.data = damaged
            row = measure(mutant, Path(folder))
            row["same"] = row["digest"] == expected[key]
            print(json.dumps({"number": number, "name": mutant.name, **row}), flush=True)


def measure(mutant: Mutant, folder: Path) -> dict:
    """Return what is read of a file, how that differs a second time, and what it costs."""
    signal.setitimer(signal.ITIMER_PROF, 3 * CPU_S)  # ends the process
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the memory starts anew
    before, start_s, digests, problem = memory("VmRSS"), time.process_time(), [], ""
    for filling in (0x55, 0xAA):
        ctypes.CDLL(None).mallopt(M_PERTURB, filling)
        try:
            digests.append(mutant.digest(folder))
        except Exception as error:  # whatever it is, it would have ended the job
            problem = f"{type(error).__name__}: {error}"[:300]
            digests.append("")
    cpu_s, peak = (time.process_time() - start_s) / 2, memory("VmHWM") - before
    signal.setitimer(signal.ITIMER_PROF, 0)
    if digests[0] != digests[1]:
        problem = problem or f"another result at the second read: {digests}"
    if cpu_s > CPU_S:
        problem = problem or f"{cpu_s:.1f} s of CPU"
    if peak > BYTES + BYTES_PER_PIXEL * mutant.pixels:
        problem = problem or f"{peak / 1e6:.0f} MB for {mutant.pixels} pixels"
    return {"digest": digests[0], "problem": problem, "cpu_s": cpu_s, "bytes": peak}


def memory(field: str) -> int:
    """Return a size of this process in bytes, as Linux lists it."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


# --- the parent ---


def run(kind: str, count: int, first: int = 0) -> list[dict]:
    """Return a row for each mutation; one that ended its process has a `problem` that says so."""
    rows, start, end = [], first, first + count
    while start < end:
        command = [sys.executable, __file__, "--child", kind, str(start), str(end - start)]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            rows += [json.loads(line) for line in process.stdout]
            code = process.wait()
            errors.seek(0)
            message = errors.read()[-500:]
        if code == 0:
            break
        crash = rows[-1]["number"] + 1 if rows else start
        if code > 0:
            raise RuntimeError(f"mutation {crash} of {kind}: {message}")
        problem = f"ended the process: {signal.Signals(-code).name}"
        seeds = mutation_seeds.SEEDS[kind]()
        rows.append({"number": crash, "name": list(seeds)[crash % len(seeds)], "problem": problem})
        start = crash + 1
    return rows


def table(rows: list[dict]) -> str:
    """Return the counts of rejects, same and other pixels, and the highest costs, by coding."""
    lines = [f"{'coding':<30}{'files':>7}{'reject':>8}{'same':>7}{'other':>7}  slowest, largest"]
    for coding in sorted({row["name"].split()[0] for row in rows}):
        ours = [row for row in rows if row["name"].split()[0] == coding and "digest" in row]
        ends = Counter(
            "same" if row["same"] else "other" if len(row["digest"]) == 24 else "reject"
            for row in ours
        )
        shares = "".join(f"{ends[end] / len(ours):>7.1%}" for end in ("reject", "same", "other"))
        costs = f"{max(row['cpu_s'] for row in ours):.2f} s, "
        costs += f"{max(row['bytes'] for row in ours) / 1e6:.0f} MB"
        lines.append(f"{coding:<30}{len(ours):>7} {shares}  {costs}")
    problems = [row for row in rows if row["problem"]]
    lines += [f"{row['number']} {row['name']}: {row['problem']}" for row in problems]
    return "\n".join([*lines, f"{len(rows)} files, {len(problems)} problems"])


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        read_all(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        with contextlib.suppress(BrokenPipeError):
            print(table(run(sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:]))))
