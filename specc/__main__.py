"""`python -m specc` is `specc`."""

from specc.cli import main

main()
