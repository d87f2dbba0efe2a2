"""`python -m rebasin_cli` runs the `rebasin` command."""

from rebasin_cli.cli import main

main()
