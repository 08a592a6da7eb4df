"""What the shards of a lake add up to: the manifest's list of shards, its counts of records, and
its statistics.

In: the sidecars of all shards. Out: parts of the manifest.
"""

import io
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from PIL import Image

from lake import exam
from lake.records import example, index, manifest
from lake.scan import stable_hash

# One image in this many, and the first of each shard, is decoded for the manifest's mean and
# standard deviation: decoding costs a dozen times what its record does.
STATISTICS_EVERY = 256
GROUPS = ("patient", "study", "series", "image")  # kinds of what a split must not divide


class Totals:
    """Adds up the sidecars of all shards."""

    def __init__(self, num_classes: int, findings: tuple[str, ...]):
        """Begin with no shard of a lake of so many class folders and these findings."""
        self.num_classes, self.finding_names = num_classes, findings
        self.shards, self.rejects, self.sums = [], [], Counter()
        # split -> [counts of a shard]; split -> [(hash, images) of each patient of a shard, [P, 2]]
        self.splits, self.patients = {}, {}
        self.findings = {}  # split -> images of each finding in each state [findings, 3]
        self.folds = set()
        self.carried = Counter()  # shards, by how they came into this version of an append
        self.exams = []  # per shard; None where an earlier radlake wrote it

    def add(self, sidecar: dict) -> None:
        """Add the sidecar of one shard."""
        self.shards.append({key: sidecar[key] for key in manifest.SHARD_KEYS})
        self.rejects += sidecar["rejects"]
        self.sums.update(sidecar["sums"])
        self.exams.append(sidecar.get("exams"))
        self.carried[sidecar.get("carried", "new")] += 1
        counts = index.count(index.table(sidecar["rows"], index.COUNTED), self.num_classes)
        self.splits.setdefault(sidecar["split"], []).append(counts)
        if self.finding_names:
            self._add_findings(sidecar)
        # Hashes, because ten million names would take a gigabyte.
        patients = Counter(stable_hash(row["patient"]) for row in sidecar["rows"] if row["patient"])
        pairs = np.array(list(patients.items()), np.uint64).reshape(-1, 2)
        self.patients.setdefault(sidecar["split"], []).append(pairs)
        self.folds.update(row["fold"] for row in sidecar["rows"])

    def _add_findings(self, sidecar: dict) -> None:
        """Add the findings of one shard."""
        rows = index.table(sidecar["rows"], (example.FINDINGS,))
        counts = index.count_findings(rows, len(self.finding_names))
        self.findings[sidecar["split"]] = self.findings.get(sidecar["split"], 0) + counts

    def counts(self) -> dict:
        """Return the manifest's `counts` of records."""
        images_per_patient = {name: _per_patient(pairs) for name, pairs in self.patients.items()}
        largest = [numbers.max(initial=0) for numbers in images_per_patient.values()]
        splits = {
            name: {**index.total(self.splits[name]), "patients": len(images_per_patient[name])}
            for name in sorted(self.splits)
        }
        grouped_by = {kind: self.sums[f"grouped_by_{kind}"] for kind in GROUPS}
        exams = exam.total(self.exams)
        return {
            "records": sum(split["records"] for split in splits.values()),
            "flat_views": self.sums["flat_views"],
            "small_lesions": self.sums["small_lesions"],
            "grouped_by": {kind: n for kind, n in grouped_by.items() if n},
            "images_of_largest_patient": int(max(largest, default=0)),
            **({"exams": exams} if exams else {}),
            "splits": splits,
        }

    def empty_folds(self, num_folds: int) -> list[int]:
        """Return those of so many folds that have no record."""
        return sorted({*range(num_folds)} - self.folds)

    def statistics(self) -> dict:
        """Return the manifest's `statistics`: mean and deviation of the sampled images' stored
        values, the lesions' share of all pixels with a mask and of those of positives, and, per
        split, how many images have each finding."""
        by_split = {
            split: index.named_counts(counts, self.finding_names)
            for split, counts in sorted(self.findings.items())
        }
        sums = self.sums
        mean = sums["total"] / max(sums["sampled_pixels"], 1)
        variance = sums["squares"] / max(sums["sampled_pixels"], 1) - mean**2
        return {
            "mean": mean,
            "standard_deviation": math.sqrt(max(variance, 0.0)),
            "images_sampled": sums["sampled_images"],
            "positive_pixel_share": sums["lesion_pixels"] / max(sums["mask_pixels"], 1),
            "positive_pixel_share_of_positives": sums["lesion_pixels"]
            / max(sums["pixels_of_positives"], 1),
            **({"findings": by_split} if by_split else {}),
        }


def num_by_reason(rejects: Iterable[dict]) -> dict[str, int]:
    """Return the number of images that were rejected for each reason, from lines of rejects.jsonl;
    one that does not say how many it is about is about one."""
    reasons = Counter()
    for reject in rejects:
        reasons[reject["reason"]] += reject.get("images", 1)
    return dict(sorted(reasons.items()))


def grey_sums(image: bytes, num_pixels: int) -> Counter:
    """Return what a sampled image adds to the sums of a shard; `num_pixels` of it are no
    padding."""
    with Image.open(io.BytesIO(image)) as picture:
        counts = np.bincount(np.asarray(picture).ravel())  # [levels]
    levels = np.arange(len(counts))
    sums = {"sampled_images": 1, "sampled_pixels": num_pixels}
    return Counter(sums, total=int(counts @ levels), squares=int(counts @ levels**2))


def _per_patient(pairs: list[np.ndarray]) -> np.ndarray:
    """Return the number of images of each patient, from (hash, images) [P, 2] of several shards."""
    hashes, images = np.concatenate(pairs).T
    _, position = np.unique(hashes, return_inverse=True)
    return np.bincount(position, images).astype(np.int64)
