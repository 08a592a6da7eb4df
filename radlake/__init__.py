"""The command `radlake`, which starts the commands of the other packages by a word each, and the
configs that come with it. In: a command line. Out: the exit code of the command."""

from lake import __version__ as __version__
