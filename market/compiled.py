"""The decorator for compiled functions: numba in nopython mode, cached on disk, and never stale.

numba's own cache checks only the file of the function itself: a kernel cached yesterday would keep calling yesterday's
book after ``market/books/price_book.py`` has changed, while ``feature_set`` says otherwise. Here the cache entry also
depends on what the function uses from other files: the compiled functions it calls and the constants it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call, without the GIL, with IEEE arithmetic (no fast-math) and numpy's error model."""
    return _compile(function, fastmath=False)


def compiled_fast(function: F) -> F:
    """As :func:`compiled`, but sums may be reordered and contracted: only where a tolerance is stated and tested."""
    return _compile(function, fastmath=True)


def _compile(function: F, *, fastmath: bool) -> F:
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)
    dispatcher._cache = _Cache(function)
    return cast(F, dispatcher)


class _Cache(FunctionCache):  # type: ignore[misc]
    """A disk cache whose entries depend on everything compiled into them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.stamp = (self._impl.locator.get_source_stamp(), *_taken_from_elsewhere(function))
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=self.stamp
        )


def _taken_from_elsewhere(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    known = function.__globals__
    return [(name, _stamp(known[name])) for name in sorted(function.__code__.co_names) if name in known]


def _stamp(value: Any) -> Any:
    if isinstance(value, Dispatcher):
        return getattr(getattr(value, "_cache", None), "stamp", value.py_func.__code__.co_code)
    if isinstance(value, _Intrinsic):
        source = Path(value._defn.__code__.co_filename).stat()
        return source.st_mtime, source.st_size
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, bool | int | float | str | tuple | np.generic | np.dtype):
        return repr(value)
    return None  # modules, types: versions of numba and numpy are part of numba's own stamp
