"""Loads, stores and copies at raw addresses, for the compiled code of a shared-memory ring.

The compiler may reorder plain loads and stores, but not these, across threads or processes. Addresses are integers and
must be valid and, for words, aligned to 8 bytes; nothing checks them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


def _pointer(builder: Any, address: Any, kind: Any = _WORD) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def load_acquire(typingctx: Any, address: Any) -> Any:  # noqa: ARG001
    """The int64 at ``address``; no later read moves before it."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_release(typingctx: Any, address: Any, value: Any) -> Any:  # noqa: ARG001
    """Write int64 ``value`` at ``address``; no earlier write moves after it."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def fence(typingctx: Any) -> Any:  # noqa: ARG001
    """Neither the compiler nor the processor moves anything across this point (acquire and release)."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def copy_bytes(typingctx: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """Copy ``count`` bytes between areas that do not overlap."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        cgutils.raw_memcpy(builder, _pointer(builder, args[0], byte), _pointer(builder, args[1], byte), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def let_others_run(typingctx: Any) -> Any:  # noqa: ARG001
    """sched_yield(2): for a reader that has seen no record for a while."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        function = cgutils.get_or_insert_function(builder.module, kind, "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def monotonic_ns(typingctx: Any) -> Any:  # noqa: ARG001
    """clock_gettime(CLOCK_MONOTONIC) in nanoseconds; resolved by name, so that compiled callers can be cached."""

    def codegen(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        pair = cgutils.alloca_once(builder, ir.ArrayType(_WORD, 2))
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), pair.type])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(function, [ir.Constant(ir.IntType(32), 1), pair])
        seconds = builder.extract_value(builder.load(pair), 0)
        rest = builder.extract_value(builder.load(pair), 1)
        return builder.add(builder.mul(seconds, ir.Constant(_WORD, 1_000_000_000)), rest)

    return types.int64(), codegen
