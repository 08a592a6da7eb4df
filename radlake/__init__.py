"""The command `radlake`, whose words are those of the other packages, and the configs that come
with it. In: a command line. Out: the exit code of the command that it names."""

from lake import __version__ as __version__
