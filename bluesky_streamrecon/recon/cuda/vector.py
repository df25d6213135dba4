"""Four slices at once: loads, stores and additions of 16 bytes.

Functions take a flat array and the index of an element; where four are meant, a multiple of four. None counts negative
indices from the end nor checks bounds, which Numba would otherwise do at every access. In the simulator they are plain
Python and check both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bluesky_streamrecon.recon.cuda.sizes import VECTOR_ADDITIONS
from bluesky_streamrecon.recon.cuda.toolkit import SIMULATED, cuda, device, device_with_cuda, types

__all__ = [
    "add4", "halves_of", "load4", "load4_at", "peek", "prefetch", "reduce4", "scale4", "select4", "store4", "zero4",
]  # fmt: skip

Four = tuple[Any, Any, Any, Any]

if SIMULATED:

    def load4(array: Any, index: Any) -> Four:
        """Read four elements."""
        assert 0 <= index <= len(array) - 4, (index, len(array))
        assert index % 4 == 0, index
        index = int(index)  # with numbers of NumPy, the three sums take longer than to read
        return (array[index], array[index + 1], array[index + 2], array[index + 3])

    def load4_at(array: Any, offset: Any) -> Four:
        """Read four elements at a byte offset."""
        assert offset % 16 == 0, offset
        return load4(array, offset // 4)

    def store4(array: Any, index: Any, value: Four) -> None:
        """Write four elements."""
        assert 0 <= index <= len(array) - 4, (index, len(array))
        assert index % 4 == 0, index
        array[index : index + 4] = value

    @device_with_cuda
    def reduce4(array, index, value) -> None:
        """Add to four elements, each atomically."""
        assert 0 <= index <= len(array) - 4, (index, len(array))
        for i in range(4):
            cuda.atomic.add(array, index + i, value[i])

    def prefetch(array: Any, index: Any) -> None:
        """Ask for the 128 bytes around an element."""
        assert 0 <= index < len(array), (index, len(array))

    def peek(array: Any, index: Any) -> Any:
        """Read an element."""
        assert 0 <= index < len(array), (index, len(array))
        return array[index]

    def halves_of(line: Any, half: Any, slope: Any) -> Any:
        """Return floor(2 (line - half) slope + 1/2)."""
        return math.floor(2 * (line - half) * slope + 0.5)

else:
    from llvmlite import ir
    from numba.cuda import libdevice
    from numba.cuda.extending import intrinsic

    _INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()

    def _element(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Return the address of element ``args[1]`` of array ``args[0]``."""
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.gep(array.data, [args[1]])

    def _vector_at(context: Any, builder: Any, signature: Any, place: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(signature.return_type.dtype), 4)
        value = builder.load(builder.bitcast(place, vector.as_pointer(place.type.addrspace)), align=16)
        lanes = [builder.extract_element(value, ir.Constant(_INT32, i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, lanes)

    @intrinsic
    def load4(typing: Any, array: Any, index: Any) -> Any:
        """Read four elements."""

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _vector_at(context, builder, signature, _element(context, builder, signature, args))

        return types.UniTuple(array.dtype, 4)(array, types.intp), code

    @intrinsic
    def load4_at(typing: Any, array: Any, offset: Any) -> Any:
        """Read four elements at a byte offset."""

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            byte = builder.bitcast(data, ir.IntType(8).as_pointer(data.type.addrspace))
            return _vector_at(context, builder, signature, builder.bitcast(builder.gep(byte, [args[1]]), data.type))

        return types.UniTuple(array.dtype, 4)(array, types.intp), code

    @intrinsic
    def store4(typing: Any, array: Any, index: Any, value: Any) -> Any:
        """Write four elements."""

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _element(context, builder, signature, args)
            kind = ir.VectorType(_FLOAT, 4)
            vector = ir.Constant(kind, ir.Undefined)
            for i in range(4):
                vector = builder.insert_element(vector, builder.extract_value(args[2], i), ir.Constant(_INT32, i))
            builder.store(vector, builder.bitcast(place, kind.as_pointer(place.type.addrspace)), align=16)
            return context.get_dummy_value()

        return types.void(array, types.intp, types.UniTuple(types.float32, 4)), code

    if VECTOR_ADDITIONS:

        @intrinsic
        def reduce4(typing: Any, array: Any, index: Any, value: Any) -> Any:
            """Add to four elements in global memory, each atomically."""

            def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                place = _element(context, builder, signature, args)
                kind = ir.FunctionType(ir.VoidType(), [_INT64] + [_FLOAT] * 4)
                text = "red.global.add.v4.f32 [$0], {$1, $2, $3, $4};"
                assembly = ir.InlineAsm(kind, text, "l,f,f,f,f", side_effect=True)
                values = [builder.extract_value(args[2], i) for i in range(4)]
                builder.call(assembly, [builder.ptrtoint(place, _INT64), *values])
                return context.get_dummy_value()

            return types.void(array, types.intp, types.UniTuple(types.float32, 4)), code

    else:

        @device_with_cuda
        def reduce4(array, index, value) -> None:
            """Add to four elements in global memory, each atomically."""
            cuda.atomic.add(array, index, value[0])
            cuda.atomic.add(array, index + 1, value[1])
            cuda.atomic.add(array, index + 2, value[2])
            cuda.atomic.add(array, index + 3, value[3])

    @intrinsic
    def prefetch(typing: Any, array: Any, index: Any) -> Any:
        """Ask for the 128 bytes around an element of an array in global memory to be brought to the L2 cache."""

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _element(context, builder, signature, args)
            kind = ir.FunctionType(ir.VoidType(), [_INT64])
            assembly = ir.InlineAsm(kind, "prefetch.global.L2 [$0];", "l", side_effect=True)
            builder.call(assembly, [builder.ptrtoint(place, _INT64)])
            return context.get_dummy_value()

        return types.void(array, types.intp), code

    @intrinsic
    def peek(typing: Any, array: Any, index: Any) -> Any:
        """Read an element."""

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_element(context, builder, signature, args))

        return array.dtype(array, types.intp), code

    @device
    def halves_of(line, half, slope):
        """Return floor(2 (line - half) slope + 1/2), each operation rounded by itself, as the CPU does it.

        A fused multiply-add would round ties otherwise, and move a line by half a pixel.
        """
        product = libdevice.dmul_rn(2.0 * (np.float64(line) - half), slope)
        return np.int32(math.floor(libdevice.dadd_rn(product, 0.5)))


@device
def add4(a, b):
    """Return a + b."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])


@device
def scale4(a, factor, b):
    """Return a factor + b."""
    return (a[0] * factor + b[0], a[1] * factor + b[1], a[2] * factor + b[2], a[3] * factor + b[3])


@device
def select4(condition, a):
    """Return `a` where the condition holds, else zero."""
    zero = np.float32(0)
    return (
        a[0] if condition else zero,
        a[1] if condition else zero,
        a[2] if condition else zero,
        a[3] if condition else zero,
    )


@device
def zero4():
    """Return four zeros."""
    return (np.float32(0), np.float32(0), np.float32(0), np.float32(0))
