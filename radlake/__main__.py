"""The start of the command `radlake`, and of python -m radlake: radlake/command.py does its work.

It is imported after the signals are taken, so that there is no moment between Python's own start
and the command's end at which Ctrl-C prints a traceback.
"""

import sys

from lake import signals


def start() -> None:
    """Run the command line of this process; setup.py makes the script `radlake` of it."""
    signals.arm(goes_on=sys.argv[1:2] in signals.RESUMABLE)
    from radlake import command

    command.run_command_line()


if __name__ == "__main__":
    start()
