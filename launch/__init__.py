"""Launchers, which users start with python -m launch.…: they run commands on rented machines, or
several at once on this one. In: a command's options. Out: a running job, and its exit code."""
