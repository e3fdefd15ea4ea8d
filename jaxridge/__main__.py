"""``python -m jaxridge`` is the command line."""

from jaxridge.cli.main import main

if __name__ == "__main__":
    main()
