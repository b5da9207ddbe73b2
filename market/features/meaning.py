"""The identifier of what the features mean: ``feature_set()``.

It is a hash of the syntax of the compiled functions that compute the features, of everything these call, of the
constants they read, of their compile options, and of the catalog. Comments, docstrings, annotations, and the file that
contains a function are not part of it: moving or documenting code leaves every dataset and model valid; changing a
computation does not.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic

from market.books.price_book import new_book
from market.events import EVENT
from market.features import catalog, kernels, slow

_ROOTS: Final = (
    new_book,
    kernels.new_state,
    kernels.reset,
    kernels.step,
    slow.slow_vector,
    slow.last_known,
    catalog.FEATURES,
    EVENT,
)

# Names from when a feature set was named by the bytes of its source files. The meaning keeps the old name, so that the
# datasets, bundles and lakes that carry it stay valid.
_NAMED_BEFORE: Final = {"689abf9aeb4c3828": "3c213d70756d1319"}

_FLAGS: Final = ("fastmath", "error_model", "parallel", "boundscheck")  # of numba, where they may change a result


@cache
def feature_set() -> str:
    """16 hex digits that change whenever the meaning of a feature may have changed."""
    meaning = digest_of(*_ROOTS)
    return _NAMED_BEFORE.get(meaning, meaning)


def digest_of(*roots: Any) -> str:
    """16 hex digits of the combined meaning of ``roots``: functions (compiled or not), dataclasses, constants, dtypes.

    Raises:
        TypeError: a function reads a value of a kind whose meaning is not defined here.
    """
    digest = hashlib.sha256()
    for root in roots:
        digest.update(_describe(root, ()).encode())
    return digest.hexdigest()[:16]


def _describe(value: Any, within: tuple[FunctionType, ...]) -> str:
    """A text that is equal for equal meanings; ``within``: the functions that led here."""
    if isinstance(value, Dispatcher):
        flags = [f"{name}={value.targetoptions.get(name)!r}" for name in _FLAGS]
        return f"compiled({', '.join(flags)}) {_describe(value.py_func, within)}"
    if isinstance(value, _Intrinsic):
        return f"intrinsic {_describe(value._defn, within)}"
    if isinstance(value, FunctionType):
        return "itself" if value in within else _describe_function(value, (*within, value))
    if isinstance(value, tuple):
        return f"({', '.join(_describe(each, within) for each in value)})"
    return _describe_constant(value)


def _describe_constant(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array({value.dtype.descr}, {value.shape}, {value.tobytes().hex()})"
    if isinstance(value, np.dtype):
        return f"dtype({value.descr})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return f"{type(value).__name__}({value!r})"
    if isinstance(value, type | BuiltinFunctionType | np.ufunc) and not _is_ours(value.__module__ or ""):
        return f"{value.__module__}.{value.__name__}"
    raise TypeError(f"expected functions and constants, saw {value!r}; define in {__name__} how it carries meaning")


def _describe_function(function: FunctionType, within: tuple[FunctionType, ...]) -> str:
    tree = _Bare().visit(_tree_of(function))
    reads = [f"{name}: {_describe(value, within)}" for name, value in sorted(_read(tree, function).items())]
    text = f"{ast.dump(tree)} reads [{'; '.join(reads)}]"
    return hashlib.sha256(text.encode()).hexdigest()


def _tree_of(function: Callable[..., Any]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"expected a function with a name, saw {function!r}; give it one")
    return tree


class _Bare(ast.NodeTransformer):
    """Keeps only the arithmetic: no docstring, annotation or decorator (compile options are read from the function)."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        node.decorator_list, node.returns = [], None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        return ast.Assign(targets=[node.target], value=node.value) if node.value else None


def _read(tree: ast.AST, function: FunctionType) -> dict[str, Any]:
    """What the function reads from outside, by the name it uses: ``best_level``, ``kernels.ROW``."""
    found = (pair for node in ast.walk(tree) for pair in _resolve(node, function))
    return {name: value for name, value in found if not isinstance(value, ModuleType)}


def _resolve(node: ast.AST, function: FunctionType) -> Iterator[tuple[str, Any]]:
    known = function.__globals__
    if isinstance(node, ast.Name) and node.id in known:
        yield node.id, known[node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        module = known.get(node.value.id)
        if isinstance(module, ModuleType) and _is_ours(module.__name__):
            yield f"{node.value.id}.{node.attr}", getattr(module, node.attr)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "market"
