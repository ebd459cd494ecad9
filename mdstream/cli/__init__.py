"""The `mdstream` command."""

import sys


def main() -> None:
    """Entry point. Heavy imports wait until here: every child process imports this package too."""
    try:
        from mdstream.cli.app import app

        app()
    except KeyboardInterrupt:  # before any command could say what it means
        sys.exit(130)
