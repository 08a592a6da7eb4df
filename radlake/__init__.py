"""The command `radlake`, whose words are those of the other packages, and the configs that come
with it. In: a command line. Out: the exit code of the command that it names."""

__version__ = "0.1.0"  # setup.py reads it here
