"""``python -m asyncopt`` is the command line."""

from asyncopt.cli import main

if __name__ == "__main__":
    main()
