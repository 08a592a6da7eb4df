"""The training run that a launcher sends to rented machines: its options, and the files to send.

In: what `trainer.task train` takes. Out: an argparse parser; the sdist and the config.
"""

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lake import storage
from lake.terminal import cli
from launch import sdist
from trainer.options import CONFIG

if TYPE_CHECKING:
    from trainer.config.run import Config


def parser(command: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return a launcher's parser with the options of the run; arguments that it leaves over
    override values of the config."""
    epilog = "--section.field=value overrides a value of the config, as in trainer.task train"
    run = "--config unetpp --lake gs://my-bucket/lakes/x/1.0.0 --workdir gs://my-bucket/runs/x"
    parser = cli.parser(command, description, example=f"{run} {example}", epilog=epilog)
    add = parser.add_argument_group("run").add_argument
    add("--config", required=True, metavar="YAML", help=CONFIG)
    lake = {"type": cli.remote_folder, "metavar": "gs://BUCKET/ROOT/NAME/VERSION"}
    add("--lake", required=True, help="of the bucket", **lake)
    workdir = {"type": cli.remote_folder, "metavar": "gs://BUCKET/FOLDER"}
    add("--workdir", required=True, help="for everything of the run", **workdir)
    return parser


def config(flags: argparse.Namespace, overrides: list[str]) -> "Config":
    """Return the run's config with the overrides in it; raises InputError for a wrong one."""
    from trainer.config.files import load  # pydantic takes 0.3 s to import

    return load(flags.config, overrides, lake=flags.lake)


@contextlib.contextmanager
def files(config: "Config") -> Iterator[tuple[Path, Path]]:
    """Yield the sdist of this checkout, and the config as config.yaml; both are deleted after the
    block."""
    from trainer.config.files import save

    with storage.temporary_folder() as folder:
        config_path = Path(folder, "config.yaml")
        save(config, config_path)
        yield sdist.build(Path(folder)), config_path


def name(config_path: str) -> str:
    """Return `radlake-` and the config's file name, in letters that Google Cloud takes."""
    stem = re.sub("[^a-z0-9]+", "-", Path(config_path).stem.lower()).strip("-")
    return f"radlake-{stem}"
