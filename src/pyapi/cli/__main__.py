"""`python -m seglog.cli`: the same as `seglog`."""

from seglog.cli import main

main()
