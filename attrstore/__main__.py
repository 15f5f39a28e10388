"""`python -m attrstore` is the command line."""

from attrstore.cli import main

main()
