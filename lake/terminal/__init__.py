"""How every command talks to its user: options and their mistakes, exit codes, progress, --quiet.
In: a parser and what a command has done. Out: lines on the terminal. Entry points ask."""
