"""The `mdstream` command."""


def main() -> None:
    """Entry point. Heavy imports wait until here: every child process imports this package too."""
    from mdstream.cli.app import app

    app()
