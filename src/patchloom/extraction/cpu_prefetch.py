"""Prefetching: voxels are requested before they are needed, so that a compiled loop does not wait for the memory."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

_INTO_SECOND_CACHE = 2
"""LLVM's number of the cache that is filled. The first cache takes so few requests at a time that the loop would wait."""


def prefetch(memory: Any, place: Any) -> None:
    """Request an element of a row of memory: one instruction in a compiled loop, nothing in Python.

    The position may lie outside the memory.
    """


@cache
def teach_prefetch() -> None:
    """Register `prefetch` with numba, before a loop that calls it is compiled.

    Numba keeps a compiled loop until the file of the loop changes: a change here does not recompile it.
    """
    extending, types, ir = (import_module(name) for name in ("numba.extending", "numba.types", "llvmlite.ir"))
    number = ir.IntType(32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(memory.data, [arguments[1]])
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        for_reading, of_data = number(0), number(1)
        builder.call(instruction, [address, for_reading, number(_INTO_SECOND_CACHE), of_data])
        return context.get_dummy_value()

    def typed(typing_context: Any, memory: Any, place: Any) -> Any:  # noqa: ARG001  # numba passes it
        return types.void(memory, place), generate

    instruction = extending.intrinsic(typed)

    def compiled(memory: Any, place: Any) -> Any:  # noqa: ARG001  # of their types only
        def ask(memory: Any, place: Any) -> Any:
            return instruction(memory, place)

        return ask

    extending.overload(prefetch)(compiled)
