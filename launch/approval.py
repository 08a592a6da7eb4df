"""The question before anything costs money. In: the plan as text; out: whether to go on."""

import sys

from lake import InputError


def add_flags(add) -> None:
    add("--dry_run", action="store_true", help="only print what would be done")
    add("--yes", action="store_true", help="launch without asking")


def add_place(add, kind: str, place_help: str) -> None:
    """Add the options of who pays, and of the region or zone (`kind`) where."""
    add("--project", required=True, metavar="ID", help="that pays")
    add(f"--{kind}", required=True, metavar=kind.upper(), help=place_help)


def ask(plan: str, dry_run: bool, yes: bool) -> bool:
    """Print the plan and return whether to launch it; asks where neither flag answers. Raises
    InputError where there is no terminal to ask at."""
    print(plan, flush=True)
    if dry_run or yes:
        return not dry_run
    if not sys.stdin.isatty():
        raise InputError("no terminal to ask at: add --yes to launch, or --dry_run to only look")
    print("launch this? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
