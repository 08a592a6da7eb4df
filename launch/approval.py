"""What a launcher asks before anything costs money. In: the plan as text; out: whether to go on."""

import sys

from lake import InputError


def add_flags(add) -> None:
    add("--dry_run", action="store_true", help="print what would be done, and do nothing")
    add("--yes", action="store_true", help="do not ask before launching")


def approved(plan: str, dry_run: bool, yes: bool) -> bool:
    """Prints the plan; asks where neither flag answers. InputError where nobody can be asked."""
    print(plan, flush=True)
    if dry_run or yes:
        return not dry_run
    if not sys.stdin.isatty():
        raise InputError("nobody to ask here: add --yes to launch this, or --dry_run to see it")
    print("launch this? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
