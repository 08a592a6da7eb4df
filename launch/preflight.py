"""What is known of a training run before a machine is rented: what the run would refuse there is
refused here, and the plan says what it will be and needs.

In: a config, and the machines' replicas. Out: lines of comments for a launcher's plan.
"""

import dataclasses
import shlex
from collections.abc import Sequence

from lake.records import manifest
from trainer.config import required
from trainer.config.run import Config
from trainer.devices import batch


@dataclasses.dataclass(frozen=True)
class Rental:
    """The machines of a run: their replicas, their name in messages, and the quota and roles that a
    project must have for them, a sentence each."""

    project: str
    num_replicas: int
    devices: str
    needs: Sequence[str]


def plan(config: Config, overrides: list[str], rental: Rental) -> str:
    """Return the comments of a plan, a line each: overrides, batch, lake, and the rental's needs.

    Raises InputError for a batch that does not divide over the replicas, of any stage, and for
    classes, splits and folds that the lake lacks.
    """
    lines = [f"overrides: {shlex.join(overrides) or 'none'}"]
    lines += batches(config, rental.num_replicas, rental.devices)
    lines += [lake(config, read_manifest(config.lake, rental.project)), *rental.needs]
    return "\n".join(f"# {line}" for line in lines)


def batches(config: Config, num_replicas: int, devices: str) -> list[str]:
    """Return a sentence per stage on how its batch is divided; raise InputError where it does not
    divide."""
    lines, stages = [], config.as_stages()
    for number, stage in enumerate(stages, 1):
        name = f" of stage {number}" if len(stages) > 1 else ""
        sizes = stage.data.batch_size, stage.optimizer.accumulate
        sentence = batch.sentence(*sizes, num_replicas, devices)
        lines += [f"batch{name}: {stage.data.batch_size} images; {sentence}"]
    return lines


def lake(config: Config, content: dict | str) -> str:
    """Return a sentence about the run's lake, which has what the config asks for, or which cannot
    be read from here; raise InputError where it lacks something. `content`: its manifest, or why
    there is none here."""
    if isinstance(content, str):
        return (
            f"lake: not looked at, so a split or fold that it lacks would end the run ({content})"
        )
    required.check(content, config.lake, config)
    splits = content["counts"]["splits"].items()
    counts = ", ".join(f"{name} {split['records']:,}" for name, split in splits)
    return f"lake: {content['dataset']} {content['version']}: {counts}"


def read_manifest(folder: str, project: str) -> dict | str:
    """Return the manifest of a lake on gs://, or why it cannot be read: the account that looks need
    not be the one that trains. Raises InputError where there is none."""
    try:
        from google.api_core.exceptions import GoogleAPIError, NotFound
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import storage
        from requests.exceptions import RequestException
    except ImportError as error:
        return f"{error}; pip install 'radlake[cloud]'"

    bucket, _, prefix = folder.removeprefix("gs://").rstrip("/").partition("/")
    try:
        blob = storage.Client(project=project).bucket(bucket).blob(f"{prefix}/{manifest.MANIFEST}")
        text = blob.download_as_text(retry=None, timeout=10)
    except NotFound:
        raise manifest.no_manifest_error(folder) from None
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        return " ".join(str(error).split())[:200]
    content = manifest.parse(text, folder)
    manifest.check_keys(content, folder)
    return content
