"""The lists of what became no record: rejects, and labels without an image.

In: their lines. Out: the files that list them, beside the shards.
"""

import json

from beam.conversion import outcomes
from beam.conversion.options import ConversionOptions
from beam.running import files, paths
from lake.records import erased, manifest
from lake.records.totals import num_by_reason


def write(rejects: list[dict], orphans: dict[str, int], options: ConversionOptions) -> None:
    """Write rejects.jsonl, and the list of labels without an image from its parts."""
    with files.whole_file(options.path(manifest.REJECTS)) as file:
        for reject in rejects:
            file.write((json.dumps(reject, ensure_ascii=False) + "\n").encode())
    with files.whole_file(options.path(manifest.ORPHANS)) as file:
        for part in sorted(orphans):
            file.write(files.read(options.work_path(part)))


def finish_without_news(
    rejects: list[dict],
    orphans: dict[str, int],
    input_counts: dict[str, int],
    options: ConversionOptions,
) -> None:
    """End an append that has no new image and no new label: list the rejects, where the earlier
    version does not list them already. Raises Stopped where they are too many."""
    path = paths.join(options.base.folder, manifest.REJECTS)
    lines = files.read_text(path).splitlines() if paths.exists(path) else []
    earlier = {(line["path"], line["reason"]) for line in map(json.loads, lines)}
    others = [reject for reject in rejects if reject["reason"] != erased.REASON]
    if any((reject["path"], reject["reason"]) not in earlier for reject in others):
        write(rejects, orphans, options)
    num_images = input_counts.get("images", 0) + input_counts.get("files_rejected", 0)
    reasons = num_by_reason(others)
    if sum(reasons.values()) > options.max_reject_fraction * num_images:
        write(rejects, orphans, options)
        raise outcomes.too_many_rejects(reasons, num_images, options)
