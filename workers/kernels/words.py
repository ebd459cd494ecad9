"""Eight bytes at a time: loads at any address, and searches without a branch per byte."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from workers.kernels.compiling import inlined
from workers.kernels.kept import BOUNDS_CHECKED

SPARE = 128
"""Bytes that must follow the last payload in its buffer, because words and blocks are loaded whole."""

LOW = np.uint64(0x0101010101010101)
HIGH = np.uint64(0x8080808080808080)


@intrinsic
def address_of(context: Any, array: Any) -> Any:
    """Return the address of an array's items."""
    signature = types.CPointer(array.dtype)(array)  # type: ignore[attr-defined]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return signature, generate


@intrinsic
def _load64(context: Any, pointer: Any, index: Any) -> Any:
    """Load the little-endian word at byte `index`, which need not be aligned. Checks nothing."""
    signature = types.uint64(pointer, index)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.gep(arguments[0], [arguments[1]])
        word = ir.IntType(64)
        loaded = builder.load(builder.bitcast(address, word.as_pointer()), typ=word)
        loaded.align = 1
        return loaded

    return signature, generate


@intrinsic
def first_bit(context: Any, word: Any) -> Any:
    """Return the place of the lowest set bit in a word that is not 0."""
    signature = types.int64(types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.true_bit)

    return signature, generate


@intrinsic
def first_bit_or_64(context: Any, word: Any) -> Any:
    """Return the place of the lowest set bit; 64 if none is set."""
    signature = types.int64(types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.false_bit)

    return signature, generate


@intrinsic
def count_bits(context: Any, word: Any) -> Any:
    """Return the number of set bits in a word."""
    signature = types.int64(types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return signature, generate


@intrinsic
def _pairs64(context: Any, pointer: Any, index: Any, first: Any, second: Any) -> Any:
    """Return a bit for each of 64 bytes from `index` on: whether it is `first` and `second` follows."""
    signature = types.uint64(pointer, index, types.uint8, types.uint8)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Vectors of any size are LLVM's own; it maps them to what the processor has.
        block = ir.VectorType(ir.IntType(8), 64)
        address = builder.gep(arguments[0], [arguments[1]])
        found = []
        for ahead, byte in enumerate(arguments[2:]):
            place = builder.gep(address, [context.get_constant(types.int64, ahead)])
            loaded = builder.load(builder.bitcast(place, block.as_pointer()), typ=block)
            loaded.align = 1
            spread = ir.Constant(block, ir.Undefined)
            lane = builder.insert_element(spread, byte, context.get_constant(types.int32, 0))
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
            found.append(builder.icmp_unsigned("==", loaded, builder.shuffle_vector(lane, spread, lanes)))
        return builder.bitcast(builder.and_(*found), ir.IntType(64))

    return signature, generate


@intrinsic
def reversed_bytes(context: Any, word: Any) -> Any:
    """Return a word with its bytes reversed."""
    signature = types.uint64(types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return signature, generate


def _typed(item: Any) -> Any:
    """Make an intrinsic that moves a byte pointer and returns it as a pointer to items."""

    @intrinsic
    def typed(context: Any, pointer: Any, offset: Any) -> Any:
        signature = types.CPointer(item)(pointer, offset)  # type: ignore[attr-defined]

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = builder.gep(arguments[0], [arguments[1]])
            return builder.bitcast(address, context.get_value_type(signature.return_type))

        return signature, generate

    return typed


def _viewed(dtype: Any) -> Any:
    """The same for an array, whose every access is checked."""
    width = dtype.itemsize

    @numba.njit(boundscheck=True)
    def viewed(array: Any, offset: int) -> Any:
        size = (len(array) - offset) // width * width
        return array[offset : offset + size].view(dtype)

    return viewed


_ITEMS = ("uint8", "uint16", "uint32", "int64", "uint64", "float64")
if BOUNDS_CHECKED:
    as_uint8, as_uint16, as_uint32, as_int64, as_uint64, as_float64 = (
        _viewed(np.dtype(name)) for name in _ITEMS
    )
else:
    as_uint8, as_uint16, as_uint32, as_int64, as_uint64, as_float64 = (
        _typed(getattr(types, name)) for name in _ITEMS
    )

if BOUNDS_CHECKED:

    @numba.njit(boundscheck=True)
    def raw(array: Any) -> Any:
        """Return the array itself, whose every access is checked."""
        return array

    @numba.njit(boundscheck=True)
    def load64(buffer: Any, index: Any) -> Any:
        """Load the little-endian word at byte `index`; both ends are checked."""
        if index < 0 or index + 8 > len(buffer):
            raise IndexError("a word beyond the buffer")
        return _load64(address_of(buffer), index)

    @numba.njit(boundscheck=True)
    def pairs64(buffer: Any, index: Any, first: Any, second: Any) -> Any:
        """Like `_pairs64`, both ends checked."""
        if index < 0 or index + 65 > len(buffer):
            raise IndexError("a block beyond the buffer")
        return _pairs64(address_of(buffer), index, first, second)

else:
    # Arrays are reference-counted, so passing one to a helper costs more than the helper's work. A pointer
    # is indexed the same way, without a count, a check, or Python's negative indices.
    raw, load64, pairs64 = address_of, _load64, _pairs64


def eight_of(byte: int) -> np.uint64:
    """Return a constant word of eight times `byte`."""
    return np.uint64(int(LOW) * byte)


@inlined
def repeated(byte: Any) -> Any:
    """Return a word of eight times `byte`."""
    return LOW * np.uint64(byte)


@inlined
def find(buffer: Any, start: int, end: int, pattern: Any) -> int:
    """Return where the byte repeated in `pattern` first occurs in `buffer[start:end]`; `end` if nowhere."""
    i = start
    while i < end:
        word = load64(buffer, i) ^ pattern
        hit = (word - LOW) & ~word & HIGH
        if hit:
            return min(end, i + (first_bit(hit) >> 3))
        i += 8
    return end


MASKS = np.array([(1 << 8 * n) - 1 for n in range(8)] + [(1 << 64) - 1], np.uint64)
"""`MASKS[n]` keeps the first n bytes of a word."""
