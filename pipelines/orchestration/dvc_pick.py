"""One value out of what a stage said with ``--json``: how an id gets from one DVC stage to the next.

``python -m pipelines.orchestration.dvc_pick FOLDER STAGE PATH`` prints the value at ``PATH`` (names and places joined
by dots) of ``FOLDER/STAGE.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from market.errors import InputError, KeelError


def pick(file: Path, path: str) -> str:
    """The value at ``path`` of a JSON file, as text.

    Raises:
        InputError: no such file, not JSON, or nothing there.
    """
    try:
        value: Any = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); run the stage {file.stem} first") from None
    except msgspec.DecodeError:
        raise InputError(f"{file} is not what `keel {file.stem} --json` prints; run that stage again") from None
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (LookupError, TypeError, ValueError):
            raise InputError(f"{file} has nothing at {path!r}: {key!r} is not there") from None
    return str(value)


def main(arguments: list[str]) -> int:
    """Print the value, or say why not and answer the error's exit code."""
    if len(arguments) != 3:
        sys.stderr.write("expected FOLDER STAGE PATH, for instance: .keel/steps featurize dataset_id\n")
        return 2
    folder, stage, path = arguments
    try:
        sys.stdout.write(pick(Path(folder) / f"{stage}.json", path) + "\n")
    except KeelError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
