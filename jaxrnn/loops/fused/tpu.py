"""A scan as one kernel for a TPU, by Pallas.

The kernel's grid has one iteration for each chunk of the sequence. Constants are brought into VMEM,
the memory on chip, once. The carry stays there in a scratch array. While one chunk is computed,
Pallas copies the outputs of the last chunk out of VMEM and the inputs of the next one into it, so
each of these arrays has two buffers:

    in HBM     constants     xs: chunk 0, chunk 1, chunk 2, ...     ys: chunk 0, chunk 1, ...
                   |              |                                     ^
                 once        two buffers                           two buffers
                   v              v                                     |
    in VMEM    constants     inputs of a chunk  ->  its steps  ->  outputs of a chunk
                                                    carry

The last chunk may be shorter. Its steps beyond the end of the sequence are not run, and what Pallas
reads there is padding.

A TPU holds an array in tiles of 8 by 128 numbers of 32 bits. Mosaic, the compiler of the kernel,
pads what does not fit, so all sizes are allowed, and it has no booleans in memory, so they are
stored as integers.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxrnn import check
from jaxrnn.loops.derived.jaxprs import Values
from jaxrnn.loops.fused.body import Arrays
from jaxrnn.loops.fused.kernel import ScanKernel, split_into

# Assumed where a program is compiled for a TPU from elsewhere: the VMEM of a v5p and a v7x. On a
# TPU, JAX knows it (`pltpu.get_tpu_info`): 16 MiB of a v4, 128 of a v5e and a v6e.
VMEM_OF_UNKNOWN_TPU = 64 * 2**20
# The share of the VMEM that a kernel may take. The rest is left to XLA.
SHARE = 7 / 8
# Two buffers of all inputs and outputs of a chunk take about this many bytes, so that a small cell
# has many steps in a chunk, and few copies are started. Not tuned, since no TPU has run it.
CHUNK_BYTES = 4 * 2**20


@dataclasses.dataclass(frozen=True)
class Stored:
    """How an array is stored in VMEM, in which every array has two axes at least.

    Fields:
        shape: the shape in VMEM.
        dtype: the dtype in VMEM, int32 for booleans.
        original: the array in the body, with its shape and dtype.
    """

    shape: tuple[int, ...]
    dtype: Any
    original: Any

    def pack(self, x: jax.Array) -> jax.Array:
        """Returns an array of the body as it is stored; x may have more leading axes."""
        lead = x.shape[: x.ndim - len(self.original.shape)]
        return jnp.reshape(x, (*lead, *self.shape)).astype(self.dtype)

    def unpack(self, x: jax.Array) -> jax.Array:
        """Returns a stored array as the body reads it; the inverse of `pack`."""
        lead = x.shape[: x.ndim - len(self.shape)]
        x = jnp.reshape(x, (*lead, *self.original.shape))
        return x != 0 if self.original.dtype == jnp.bool_ else x

    @property
    def size_in_bytes(self) -> int:
        """The bytes in VMEM, with the padding of the last two axes."""
        *lead, rows, columns = self.shape
        item = jnp.dtype(self.dtype).itemsize
        rows_of_tile = 8 * max(1, 4 // item)  # narrow numbers are packed along the rows
        padded = math.ceil(rows / rows_of_tile) * rows_of_tile * math.ceil(columns / 128) * 128
        return math.prod(lead) * padded * item


def _stored(v: Any, *, as_row: bool = False) -> Stored:
    """Returns how the value of a variable is stored.

    A number for each row of the batch, such as a mask `(B,)`, becomes a column, since the batch is
    the first axis of every other array. A constant with one axis, such as a bias, becomes a row.
    """
    shape = v.aval.shape
    dtype = v.aval.dtype
    if len(shape) < 2:
        size = math.prod(shape)
        stored_shape = (1, size) if as_row else (size, 1)
    else:
        stored_shape = shape
    stored_dtype = jnp.int32 if dtype == jnp.bool_ else dtype
    return Stored(stored_shape, stored_dtype, v.aval)


@dataclasses.dataclass(frozen=True, eq=False)
class TpuKernel(ScanKernel):
    """The kernel for a TPU."""

    compiler = "Mosaic"
    lowering_platform = "tpu"

    @functools.cached_property
    def constants(self) -> list[Stored]:
        """How each constant is stored."""
        return [_stored(v, as_row=True) for v in self.body.constants]

    @functools.cached_property
    def carry(self) -> list[Stored]:
        """How each array of the carry is stored."""
        return [_stored(v) for v in self.body.carry]

    @functools.cached_property
    def x(self) -> list[Stored]:
        """How one step of each input is stored."""
        return [_stored(v) for v in self.body.x]

    @functools.cached_property
    def y(self) -> list[Stored]:
        """How one step of each output is stored."""
        return [_stored(v) for v in self.body.y]

    @property
    def bytes_of_step(self) -> int:
        """The VMEM for one step of a chunk: two buffers of each input and each output."""
        return 2 * sum(stored.size_in_bytes for stored in [*self.x, *self.y])

    @property
    def bytes_of_all_steps(self) -> int:
        """The VMEM that does not depend on the size of a chunk.

        These are the constants, the carry (before the first step, now, and two buffers after the
        last), and at most the values that a step computes.
        """
        held = sum(stored.size_in_bytes for stored in self.constants)
        held += 4 * sum(stored.size_in_bytes for stored in self.carry)
        computed = (v for eqn in self.body.equations for v in eqn.outvars)
        return held + sum(_stored(v).size_in_bytes for v in computed)

    @property
    def chunk(self) -> int:
        """The number of steps in a chunk."""
        room = min(CHUNK_BYTES, vmem_bytes() - self.bytes_of_all_steps)
        return max(1, min(self.steps, room // max(1, self.bytes_of_step)))

    @property
    def bytes_on_chip(self) -> int:
        """The VMEM that the kernel takes, at most."""
        return self.bytes_of_all_steps + self.chunk * self.bytes_of_step

    def require_room(self) -> None:
        """Raises an error if a chunk of one step does not fit into VMEM."""
        needed = self.bytes_of_all_steps + self.bytes_of_step
        fits = needed <= vmem_bytes()
        got = f"a step that takes {needed:,} bytes on chip in fused()"
        check.require(fits, "step", got, f"at most {vmem_bytes():,}, or loop=jaxrnn.bptt")

    def run(self, arrays: Arrays) -> tuple[Values, Values]:
        """Returns the leaves of the last carry and of the outputs."""
        chunk = self.chunk
        num_chunks = math.ceil(self.steps / chunk)
        outputs = pl.pallas_call(
            functools.partial(_run_chunk, self, chunk, num_chunks),
            out_shape=[
                *(_output(stored, stored.shape) for stored in self.carry),
                *(_output(stored, (self.steps, *stored.shape)) for stored in self.y),
            ],
            grid=(num_chunks,),
            in_specs=[
                *(_whole(stored, pl.Buffered(1)) for stored in [*self.constants, *self.carry]),
                *(self._chunk_of(stored, chunk, num_chunks) for stored in self.x),
            ],
            out_specs=[
                *(_whole(stored) for stored in self.carry),
                *(self._chunk_of(stored, chunk, num_chunks) for stored in self.y),
            ],
            scratch_shapes=[pltpu.VMEM(stored.shape, stored.dtype) for stored in self.carry],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("arbitrary",), vmem_limit_bytes=vmem_bytes()
            ),
            interpret=self.interpret,
        )(
            *map(Stored.pack, self.constants, arrays.constants),
            *map(Stored.pack, self.carry, arrays.carry),
            *map(Stored.pack, self.x, arrays.xs),
        )
        num_carry = len(self.carry)
        last = [*map(Stored.unpack, self.carry, outputs[:num_carry])]
        return last, [*map(Stored.unpack, self.y, outputs[num_carry:])]

    def _chunk_of(self, stored: Stored, chunk: int, num_chunks: int) -> pl.BlockSpec:
        """Returns the part of an array `(T, ...)` that one iteration of the grid gets."""

        def block(i: Any) -> tuple[Any, ...]:
            return (_chunk_at(i, num_chunks, self.reverse), *_origin(stored))

        return pl.BlockSpec((chunk, *stored.shape), block)


def _output(stored: Stored, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Returns the form of an output, which inside a `jax.shard_map` differs between devices."""
    manual_axis_type = stored.original.manual_axis_type
    return jax.ShapeDtypeStruct(shape, stored.dtype, manual_axis_type=manual_axis_type)


def _whole(stored: Stored, pipeline_mode: Any = None) -> pl.BlockSpec:
    """Returns the block of an array that all iterations of the grid share."""
    return pl.BlockSpec(stored.shape, lambda i: _origin(stored), pipeline_mode=pipeline_mode)


def _origin(stored: Stored) -> tuple[Any, ...]:
    """Returns the index 0 of each axis, in the dtype of a TPU's indices also under 64 bits."""
    return (np.int32(0),) * len(stored.shape)


def _chunk_at(i: Any, num_chunks: int, reverse: bool) -> Any:
    """Returns the chunk of iteration i."""
    return np.int32(num_chunks - 1) - i if reverse else i


def _run_chunk(kernel: TpuKernel, chunk: int, num_chunks: int, *refs: Any) -> None:
    """Runs the steps of one chunk; this is the code of the kernel."""
    num_constants = len(kernel.constants)
    num_carry = len(kernel.carry)
    sizes = num_constants, num_carry, len(kernel.x), num_carry, len(kernel.y), num_carry
    constants_ref, first_ref, x_ref, last_ref, y_ref, carry_ref = split_into(refs, sizes)
    i = pl.program_id(0)

    @pl.when(i == 0)
    def start() -> None:
        for carry, first in zip(carry_ref, first_ref, strict=True):
            carry[...] = first[...]

    chunk_index = _chunk_at(i, num_chunks, kernel.reverse)
    # The last chunk may be shorter; its other steps are padding.
    steps = jnp.minimum(np.int32(chunk), np.int32(kernel.steps) - chunk_index * np.int32(chunk))

    def run_step(n: Any, _: None) -> None:
        # Read here, where a product takes them from VMEM. Before the loop, they would be copied.
        constants = _load(kernel.constants, constants_ref)
        t = steps - np.int32(1) - n if kernel.reverse else n
        carry = _load(kernel.carry, carry_ref)
        x = [s.unpack(ref[t]) for s, ref in zip(kernel.x, x_ref, strict=True)]
        new_carry, y = kernel.body(constants, carry, x)
        for stored, ref, value in zip(kernel.carry, carry_ref, new_carry, strict=True):
            ref[...] = stored.pack(value)
        for stored, ref, value in zip(kernel.y, y_ref, y, strict=True):
            ref[t] = stored.pack(value)

    jax.lax.fori_loop(np.int32(0), steps, run_step, None)

    @pl.when(i == num_chunks - 1)
    def end() -> None:
        for last, carry in zip(last_ref, carry_ref, strict=True):
            last[...] = carry[...]


def _load(stored: list[Stored], refs: Sequence[Any]) -> Values:
    """Returns the arrays of the body, read from VMEM."""
    return [s.unpack(ref[...]) for s, ref in zip(stored, refs, strict=True)]


def vmem_bytes() -> int:
    """Returns the bytes on chip that a kernel may take."""
    try:
        capacity = pltpu.get_tpu_info().vmem_capacity_bytes
    except ValueError:  # the default device is no TPU
        capacity = VMEM_OF_UNKNOWN_TPU
    return int(SHARE * capacity)
