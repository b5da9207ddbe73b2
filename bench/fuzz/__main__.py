"""``python -m bench.fuzz``: see :mod:`bench.fuzz.campaign`."""

import sys

from bench.fuzz.campaign import main

if __name__ == "__main__":
    sys.exit(main())
