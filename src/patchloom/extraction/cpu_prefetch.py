"""Voxels asked for before they are needed, so that a compiled loop does not wait for the memory."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

_INTO_SECOND_CACHE = 2
"""Where a voxel is brought, in LLVM's terms. The first cache takes few requests at a time, and then the loop would wait."""


def prefetch(memory: Any, place: Any) -> None:
    """Ask for an element of a row of memory: in a compiled loop one instruction, which changes nothing but the time.

    The place may lie outside the memory. Uncompiled, nothing happens.
    """


@cache
def teach_prefetch() -> None:
    """Tell numba what `prefetch` is, before a loop that calls it is compiled.

    Numba keeps a compiled loop until the file of the loop changes: one that was compiled before a change here stays as it was.
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
