"""The command line as a module: `python -m mnv2zoo`."""

from mnv2zoo.cli import main

if __name__ == "__main__":
    main()
