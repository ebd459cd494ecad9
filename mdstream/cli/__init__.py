"""The `mdstream` command."""

import sys

from mdstream.errors import Exit


def main() -> None:
    """Run the command. Heavy imports are made here: every child process imports this package too."""
    try:
        import typer

        from mdstream.cli.app import app

        try:
            code = app(sys.argv[1:] or ["--help"], prog_name="mdstream", standalone_mode=False)
        except typer.TyperException as error:  # an unknown flag, or an unusable value
            context = getattr(error, "ctx", None)
            name = context.command_path if context is not None else "mdstream"
            text = " ".join(error.format_message().split())
            print(f"mdstream: {text} (see {name} --help)", file=sys.stderr)
            code = int(Exit.CONFIG)
    except (KeyboardInterrupt, EOFError):  # before any command handles it
        code = int(Exit.INTERRUPTED)
    sys.exit(code)
