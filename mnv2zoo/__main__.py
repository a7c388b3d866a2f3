"""`python -m mnv2zoo`: the command line."""

from mnv2zoo.cli import main

if __name__ == "__main__":
    main()
