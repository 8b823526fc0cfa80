"""``python -m routegym``: the command line where the script `routegym` is not on the path."""

from routegym.cli.main import main

if __name__ == "__main__":
    main()
