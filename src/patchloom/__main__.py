"""`python -m patchloom`: the command line, where its script is not on the path."""

from patchloom.cli import main

main()
