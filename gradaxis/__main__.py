"""`python -m gradaxis`."""

from gradaxis.cli import main

if __name__ == "__main__":
    main()
