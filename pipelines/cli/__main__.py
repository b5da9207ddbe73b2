"""``python -m pipelines.cli``: the ``keel`` command where no script is installed."""

from pipelines.cli.main import main

if __name__ == "__main__":
    main()
