"""The command line. Only :func:`main` is imported at start; every command imports what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors of this package end it with their message and exit code, never a traceback."""
    try:
        _main()
    except KeyboardInterrupt:  # before the run has taken the signals over
        print("asyncopt: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        sys.exit(1)


def _main() -> None:
    from asyncopt.cli.app import app
    from asyncopt.errors import AsyncoptError

    try:
        app()
    except AsyncoptError as error:
        print(f"asyncopt: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
