"""`python -m kdbench` is `kdbench`."""

from kdbench.commands.cli import main

if __name__ == "__main__":
    main()
