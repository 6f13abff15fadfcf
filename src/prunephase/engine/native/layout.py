"""Where a sparse matrix keeps its weights, and the structures that kernels.c works on."""

# O outputs (rows), I inputs (columns), A inputs that some weight uses, W surviving weights.

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_int64, c_uint8, c_uint64
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LANES = 16  # of the widest vectors: what a kernel may read or write beyond the last weight
WORD = 64  # columns of a block whose pattern is kept as bits, as in kernels.c
ALIGNMENT = 64  # a cache line: with it, a row of a tile never straddles two

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class CMatrix(Structure):
    """Matrix in kernels.c."""

    _fields_ = (
        *(("rows", c_int32), ("blocks", c_int32), ("start", POINTER(c_int32)), ("column", POINTER(c_int32))),
        ("bits", POINTER(c_uint64)),
    )


class CGround(Structure):
    """Ground in kernels.c."""

    _fields_ = (("live", POINTER(c_uint64)), ("constant", c_float))


class CLayer(Structure):
    """Layer in kernels.c."""

    _fields_ = (
        *(("forward", CMatrix), ("backward", CMatrix), ("source", POINTER(c_int32))),
        *(("weight", POINTER(c_float)), ("bias", POINTER(c_float)), ("transposed", POINTER(c_float))),
        *(("gradient", POINTER(c_float)), ("bias_gradient", POINTER(c_float))),
        *(("momentum", POINTER(c_float)), ("bias_momentum", POINTER(c_float))),
        *(("square", POINTER(c_float)), ("bias_square", POINTER(c_float))),
        *(("start", POINTER(c_float)), ("bias_start", POINTER(c_float))),
        *(("output", POINTER(c_float)), ("error", POINTER(c_float))),
    )


class CExamples(Structure):
    """Examples in kernels.c."""

    _fields_ = (
        *(("codes", POINTER(c_uint8)), ("values", POINTER(c_float)), ("labels", POINTER(c_int64))),
        ("features", c_int64),
    )


class CChain(Structure):
    """Chain in kernels.c."""

    _fields_ = (
        *(("layers", POINTER(CLayer)), ("depth", c_int32), ("inputs", c_int32), ("active", POINTER(c_int32))),
        ("column", POINTER(c_int32)),
        *(("scale", POINTER(c_float)), ("shift", POINTER(c_float)), ("tile", POINTER(c_float)), ("ground", CGround)),
        *(("scratch", POINTER(c_float)), ("sums", POINTER(c_float))),
    )


class CRule(Structure):
    """Rule in kernels.c."""

    _fields_ = (
        *(("adam", c_int32), ("lr", c_double), ("momentum", c_double), ("decay", c_double)),
        *(("beta1", c_double), ("beta2", c_double), ("epsilon", c_double), ("tether", c_double), ("step", c_int64)),
    )


class CGoal(Structure):
    """Goal in kernels.c."""

    _fields_ = (
        *(("weight", c_double), ("smoothing", c_double), ("reverse", c_double), ("power", c_double)),
        *(("alpha", c_double), ("temperature", c_double)),
        *(("taught", POINTER(c_float)), ("taught_log", POINTER(c_double))),
    )


def room(*shape: int) -> Floats:
    """Zeros."""
    size = int(np.prod(shape))
    whole = np.zeros(size * 4 + ALIGNMENT, np.uint8)
    skip = -whole.ctypes.data % ALIGNMENT
    return whole[skip : skip + size * 4].view(np.float32).reshape(shape)


def address(array: NDArray[Any] | Tensor | None) -> Any:
    """A pointer to the elements of `array`, which must outlive it; NULL for None."""
    if array is None:
        return None
    if isinstance(array, Tensor):
        names: dict[str, Any] = {"torch.float32": c_float, "torch.int64": c_int64, "torch.uint8": c_uint8}
        return ctypes.cast(array.data_ptr(), POINTER(names[str(array.dtype)]))
    kinds: dict[str, Any] = {"f4": c_float, "i4": c_int32, "i8": c_int64, "f8": c_double, "u8": c_uint64}
    return array.ctypes.data_as(POINTER(kinds[array.dtype.str[1:]]))


def block_width(density: float) -> int:
    """Inputs of a block: as many as the first-level cache holds, unless its rows would be all but empty (measured)."""
    return 56 if density > 0.12 else 112 if density > 0.03 else 1 << 30


class Order:
    """Weights in the order of kernels.c: block of columns, then row, then column; `order` brings them there.

    bits: whether the pattern is also kept as bits, which lets the kernels skip columns that are constant in a batch;
    below a tenth of the weights that costs more than it saves (measured).
    """

    def __init__(self, row: Ints, column: Ints, rows: int, columns: int, bits: bool = False) -> None:
        density = len(row) / max(rows * columns, 1)
        bits = bits and density > 0.1
        width = WORD if bits else block_width(density)
        cell = column // width * np.int64(rows) + row  # which (block, row)
        self.rows, self.blocks = rows, max(-(-columns // width), 1)
        self.order = np.lexsort((column, cell))
        counts = np.bincount(cell, minlength=self.blocks * rows)
        self.start: Ints = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.column: Ints = np.concatenate([column[self.order], np.zeros(LANES, np.int32)])
        self.bits: NDArray[np.uint64] | None = None
        if bits:
            self.bits = np.zeros(self.blocks * rows, np.uint64)
            np.bitwise_or.at(self.bits, cell, np.uint64(1) << (column % WORD).astype(np.uint64))

    def matrix(self) -> CMatrix:
        """For kernels.c; valid while this object lives."""
        return CMatrix(self.rows, self.blocks, address(self.start), address(self.column), address(self.bits))


class Pattern:
    """Where the surviving weights of one [O, I] matrix are.

    active: [A] the inputs that some weight uses, rising (`every_input`: all); column: [A] the column that each becomes:
    its place in `active`, or, where `rarity` [I] says how often an input is not constant, the rarest first, so that
    constant columns lie together. place: [W] flat index of each weight in the dense matrix. source: [W] place in
    `forward` of each weight of `backward`, the transpose.
    """

    def __init__(
        self, mask: NDArray[np.bool_], *, every_input: bool = False, rarity: NDArray[np.int64] | None = None
    ) -> None:
        self.outputs, self.inputs = mask.shape
        self.active: Ints = np.flatnonzero(np.full(self.inputs, every_input) | mask.any(0)).astype(np.int32)
        count = len(self.active)
        self.column: Ints = np.arange(count, dtype=np.int32)
        if rarity is not None:
            self.column[np.argsort(rarity[self.active], kind="stable")] = np.arange(count, dtype=np.int32)
        column_of = np.zeros(self.inputs, np.int32)
        column_of[self.active] = self.column
        row, feature = (axis.astype(np.int32) for axis in np.nonzero(mask))
        self.forward = Order(row, column_of[feature], self.outputs, count, bits=rarity is not None)
        row, feature = row[self.forward.order], feature[self.forward.order]
        self.place = row.astype(np.int64) * self.inputs + feature
        self.backward = Order(column_of[feature], row, count, self.outputs)
        self.source: Ints = self.backward.order.astype(np.int32)


class Sparse:
    """One layer's surviving weights, their optimiser state (`moments` numbers per weight) and room for a tile."""

    def __init__(self, pattern: Pattern, tile: int, *, bias: bool, moments: int) -> None:
        outputs, weights = pattern.outputs, len(pattern.place)
        self.pattern = pattern
        self.weight, self.bias = room(weights), room(outputs) if bias else None
        self.transposed, self.gradient, self.bias_gradient = room(weights), room(weights), room(outputs)
        self.state = [room(weights) if i < moments else None for i in range(2)]
        self.bias_state = [room(outputs) if i < moments else None for i in range(2)]
        self.start: Floats | None = None  # what weights and biases are tethered to, in their order
        self.bias_start: Floats | None = None
        self.output, self.error = room(outputs, tile), room(outputs, tile)
        self.every = np.arange(outputs, dtype=np.int32)
        self.tile = room(len(pattern.active), tile)

    def layer(self, source: bool) -> CLayer:
        """For kernels.c; valid while this object lives. source: whether the gradient of the inputs is wanted."""
        kept = (self.weight, self.bias, self.transposed, self.gradient, self.bias_gradient)
        states = (self.state[0], self.bias_state[0], self.state[1], self.bias_state[1], self.start, self.bias_start)
        return CLayer(
            *(self.pattern.forward.matrix(), self.pattern.backward.matrix()),
            address(self.pattern.source) if source else None,
            *(address(array) for array in (*kept, *states, self.output, self.error)),
        )

    def outputs_of(self, functions: ctypes.CDLL, x: Floats) -> Floats:
        """weight @ x + bias for rows x [N, I] -> [N, O]."""
        y = np.empty((len(x), self.pattern.outputs), np.float32)
        functions.prunephase_linear_forward(
            *(self.layer(source=False), address(self.pattern.active), len(self.pattern.active), address(self.every)),
            *(address(x), len(x), self.pattern.inputs, address(self.tile), address(y)),
        )
        return y
