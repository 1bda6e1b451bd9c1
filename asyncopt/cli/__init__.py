"""The command line. Only :func:`main` is imported at start; every command imports what it needs."""

from __future__ import annotations

import sys

LONGEST_ERROR = 2000  # characters; some have a server's words, or a file's


def main() -> None:
    """Run the command line; errors of this package end it with their message and exit code, never a traceback."""
    try:
        _main()
    except KeyboardInterrupt:  # before the run has taken the signals over
        print("asyncopt: interrupted", file=sys.stderr)
        sys.exit(130)


def _main() -> None:
    from asyncopt.cli.app import app
    from asyncopt.cli.keys import refuse_keys, without_keys
    from asyncopt.cli.signals import flush_outputs, guard_outputs
    from asyncopt.codec import printable
    from asyncopt.errors import AsyncoptError

    guard_outputs()
    try:
        if sys.argv[1:2] != ["simulate"]:  # its --key is for a server of one's own, and is meant to be told
            refuse_keys("\n".join(sys.argv[1:]), "the command line has")
        app()
    except AsyncoptError as error:
        print(f"asyncopt: {printable(without_keys(str(error)), LONGEST_ERROR)}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        flush_outputs()
