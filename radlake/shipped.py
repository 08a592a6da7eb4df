"""The configs that come with radlake. In: the value of --config. Out: the path of a YAML file, and
the list that `radlake configs` prints."""

import argparse
import importlib.resources
import re
from importlib.resources.abc import Traversable
from pathlib import Path

from lake import InputError
from lake.terminal import cli, suggestions


def folder() -> Traversable:
    """Return the folder of the configs. In a checkout it lies at the top, where people look for it;
    setup.py installs it inside this package, where no other package's `configs` can be."""
    package = importlib.resources.files("radlake")
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def names() -> list[str]:
    files = [Path(entry.name) for entry in folder().iterdir()]
    return sorted(path.stem for path in files if path.suffix == ".yaml")


def find(config: str | Path) -> str | Path:
    """Return the file of the shipped config of this name. A value with a suffix or a slash is a
    path and is returned unchanged. Raises InputError for an unknown name."""
    text = str(config)
    if Path(text).suffix or "/" in text:
        return config
    config_names = names()
    if text in config_names:
        return folder() / f"{text}.yaml"
    suggestion = suggestions.question(text, config_names)
    message = f"--config={text}: no config of this name; {suggestion}".rstrip()
    raise InputError(
        f"{message} the names are {', '.join(config_names)}; a file of your own has a suffix or a "
        f"slash, as in ./{text}"
    )


def summary(name: str) -> str:
    """Return the first sentence of the comment that a config begins with."""
    text = (folder() / f"{name}.yaml").read_text()
    comment = re.match(r"(?:#.*\n)*", text)[0]
    paragraph = re.sub(r"^# ?", "", comment, flags=re.MULTILINE).split("\n\n")[0]
    return re.match(r".*?(?:\.(?= )|$)", paragraph.replace("\n", " ").strip())[0]


def listing() -> str:
    config_names = names()
    width = max(map(len, config_names))
    return "\n".join(f"{name:{width}}  {summary(name)}" for name in config_names)


def parser() -> argparse.ArgumentParser:
    summary = "Lists the configs that --config takes by their names."
    return cli.parser("radlake configs", summary, example="| grep unet")


def main(argv: list[str]) -> int:
    cli.parse(parser(), argv)
    return cli.exit_code(listing)
