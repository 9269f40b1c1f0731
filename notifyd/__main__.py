"""`python -m notifyd`: the command line, where its script is not on the path."""

from notifyd.cli.main import main

main()
