r"""A scan as one kernel for an NVIDIA GPU, by Pallas for Mosaic GPU.

A block of 128 threads runs all steps for some rows of the batch, on one multiprocessor. The
recurrent kernels are copied into its shared memory once, and the carry stays in the registers of
the threads:

    memory of the GPU   matrices            xs[t + 1]                ys[t]
                          | once              | while step t runs      |
    shared memory       matrices   h_{t-1}    |                        |
                               \  /           |                        |
    registers           carry   h_{t-1} W -> step t  ------------------+

A thread has its columns of all values, so elementwise equations need no other thread. For a product
p = h W, the threads write h to shared memory, and each computes its columns of p, one row of W
after another: p += h[:, k] W[k, :]. These are products and sums of float32, without TF32.

All blocks of threads are independent, and each has all of W, so W has to fit into the shared memory
of one multiprocessor. Where it is a little too large, its last rows are kept in registers.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Values
from jaxrnn.loops.fused import gpu_plan
from jaxrnn.loops.fused import gpu_values as values
from jaxrnn.loops.fused.body import Arrays
from jaxrnn.loops.fused.gpu_equations import Evaluator, Memory, Use, value_of
from jaxrnn.loops.fused.gpu_plan import InnerBody, Plan
from jaxrnn.loops.fused.gpu_values import Constant, Grid, Partition, Row, Scalar, Vector, role_of
from jaxrnn.loops.fused.kernel import ScanKernel, split_into

COPIED_ROWS = 8  # rows of a matrix that are copied at once


@dataclasses.dataclass(frozen=True, eq=False)
class GpuKernel(ScanKernel):
    """The kernel for an NVIDIA GPU."""

    compiler = "Mosaic GPU"
    lowering_platform = "cuda"

    @functools.cached_property
    def inner(self) -> InnerBody:
        """The equations of a step."""
        return gpu_plan.inner_body(self.body)

    @functools.cached_property
    def plan(self) -> Plan:
        """How a block of threads runs them."""
        return gpu_plan.plan(self.inner, self.interpret)

    def require_room(self) -> None:
        """Raises an error if the matrices do not fit into the shared memory."""
        gpu_plan.require_room(self.plan)

    def require_lowering(self, arrays: Arrays) -> None:
        """Raises an error if Mosaic GPU has no code for the step."""
        fits = hasattr(plgpu, "InterpretGPUParams")
        check.require(fits, "jax", jax.__version__, "0.11.2 or newer for fused() on a GPU")
        for v in [*self.inner.carry, *self.inner.x, *jaxprs.producers(self.inner.equations)]:
            if jaxprs.dtype_of(v).itemsize > 4:
                values.refuse(f"{jaxprs.dtype_of(v)} numbers", "numbers of 32 bits at most")
        super().require_lowering(arrays)

    def run(self, arrays: Arrays) -> tuple[Values, Values]:
        """Returns the leaves of the last carry and of the outputs."""
        inner = self.inner
        plan = self.plan
        partition = plan.partition
        num_carry = len(inner.carry)
        constants = dict(zip(inner.constants, inner.ahead(arrays.constants), strict=True))
        carry = zip(inner.carry, arrays.carry, strict=True)
        xs = zip(inner.x, arrays.xs, strict=True)
        operands = [
            *(_pack_constant(partition, use, constants[use.var]) for use in plan.uses),
            *(partition.pack(x, role_of(partition, v.aval)) for v, x in carry),
            *(partition.pack(x, role_of(partition, v.aval), lead=1) for v, x in xs),
        ]
        outputs = [
            *(partition.packed(v.aval) for v in inner.new_carry),
            *(partition.packed(v.aval, lead=(self.steps,)) for v in inner.y),
        ]
        scratch = [plgpu.SMEM(shape.shape, shape.dtype) for shape in plan.scratch]
        kernel = functools.partial(_run_block, self)
        results = _call(kernel, outputs, scratch, partition)(*operands)
        last = zip(inner.new_carry, results[:num_carry], strict=True)
        ys = zip(inner.y, results[num_carry:], strict=True)
        last_values = [partition.unpack(x, v.aval) for v, x in last]
        return last_values, [partition.unpack(x, v.aval, lead=1) for v, x in ys]


def _call(kernel: Any, outputs: Any, scratch: Any, partition: Partition) -> Any:
    """Returns the function that runs a kernel; its options depend on the version of JAX."""
    is_new = hasattr(plgpu, "InterpretGPUParams")  # since JAX 0.11.2
    names = ("out_type", "scratch_types") if is_new else ("out_shape", "scratch_shapes")
    options: dict[str, Any] = dict(zip(names, (outputs, scratch), strict=True))
    if partition.interpret:
        from jax._src.pallas.mosaic_gpu.interpret import params

        options["interpret"] = params.InterpretGPUParams()
    else:
        semantics = plgpu.LoweringSemantics.Lane
        options["compiler_params"] = plgpu.CompilerParams(lowering_semantics=semantics)
    return plgpu.kernel(
        kernel, grid=(partition.blocks_of_threads,), grid_names=("block",), **options
    )


@dataclasses.dataclass(frozen=True)
class OnChip(Memory):
    """The constants of a kernel.

    Fields:
        plan: the plan of the kernel.
        values: the constants in registers, and of a matrix the rows that are held there.
        matrices: the references to shared memory.
        operand: the reference to the shared memory for the left side of a product.
    """

    plan: Plan
    values: dict[Use, Any]
    matrices: dict[Use, Any]
    operand: Any

    def constant(self, use: Use) -> Any:
        """Returns a constant that was loaded before the loop."""
        return self.values[use]

    def product(self, x: Grid, use: Use, dtype: Any) -> Grid:
        """Returns x W, as a sum over the rows of W."""
        partition = self.plan.partition
        w = self.matrices[use]
        held = self.values[use]
        wide = gpu_plan.wide(dtype)
        groups = w.shape[1] // partition.columns
        for j, block in enumerate(x.blocks):
            self.operand[j] = block.astype(w.dtype).astype(wide)

        def add_row(sums: Any, j: int, k: Any, w_k: Any) -> Any:
            """Adds x[:, k] W[k, :], with k in the group j."""
            x_k = partition.load(self.operand, (np.int32(j), slice(None), k), values.row_layout())
            x_k = partition.grid(x_k, (0,))
            pairs = zip(sums, w_k, strict=True)
            return tuple(s + x_k * partition.grid(row.astype(wide), (1,)) for s, row in pairs)

        sums = tuple(partition.fill(0, wide) for _ in range(groups))
        unroll = math.gcd(gpu_plan.UNROLL, partition.unit)
        for j in range(len(x.blocks)):
            is_last = j == len(x.blocks) - 1
            in_memory = partition.unit - (len(held) if is_last else 0)

            def add_rows(i: Any, sums: Any, j: int = j) -> Any:
                for offset in range(unroll):
                    k = i * np.int32(unroll) + np.int32(offset)
                    w_k = _load_vector(partition, w, groups, (k + np.int32(j * partition.unit),))
                    sums = add_row(sums, j, k, w_k)
                return sums

            sums = lax.fori_loop(np.int32(0), np.int32(in_memory // unroll), add_rows, sums)
            for i, w_k in enumerate(held if is_last else ()):
                sums = add_row(sums, j, np.int32(in_memory + i), w_k)
        return Grid(tuple(s.astype(dtype) for s in sums))


def _run_block(kernel: GpuKernel, *refs: Any) -> None:
    """Runs all steps for the rows of one block of threads; this is the code of the kernel."""
    inner = kernel.inner
    plan = kernel.plan
    steps = kernel.steps
    partition = plan.partition
    num_carry = len(inner.carry)
    num_matrices = len(plan.matrices)
    sizes = len(plan.uses), num_carry, len(inner.x), num_carry, len(inner.y), num_matrices, 1
    constant_refs, first_refs, x_refs, last_refs, y_refs, matrix_refs, operand = split_into(
        refs, sizes
    )
    matrices = dict(zip(plan.matrices, matrix_refs, strict=True))
    rows = pl.ds(lax.axis_index("block") * np.int32(partition.rows), partition.rows)
    constants = {}
    for use, ref in zip(plan.uses, constant_refs, strict=True):
        if use in matrices:
            constants[use] = _copy_matrix(partition, ref, matrices[use])
        else:
            constants[use] = _load_constant(partition, use, ref, rows)
    memory = OnChip(plan, constants, matrices, operand[0] if operand else None)
    evaluator = Evaluator(partition, memory)

    def time(n: Any) -> Any:
        """Returns the step of iteration n; after the last one the last one again."""
        n = jnp.minimum(n, np.int32(steps - 1))
        return np.int32(steps - 1) - n if kernel.reverse else n

    def load_x(n: Any) -> Values:
        pairs = zip(inner.x, x_refs, strict=True)
        return [_load(partition, v.aval, ref, rows, (time(n),)) for v, ref in pairs]

    def run_step(n: Any, state: tuple[Values, Values]) -> tuple[Values, Values]:
        carry, x = state
        next_x = load_x(n + np.int32(1))  # arrives while this step runs
        env: dict[Any, Any] = {v: Constant(v) for v in inner.constants}
        env |= dict(zip([*inner.carry, *inner.x], [*carry, *x], strict=True))
        env = evaluator.run(inner.equations, env)

        def result(v: Any) -> Any:
            return evaluator.as_role(value_of(env, v), v.aval, role_of(partition, v.aval))

        for v, ref in zip(inner.y, y_refs, strict=True):
            _store(partition, result(v), ref, rows, (time(n),))
        return [result(v) for v in inner.new_carry], next_x

    carry = [
        _load(partition, v.aval, ref, rows) for v, ref in zip(inner.carry, first_refs, strict=True)
    ]
    state = carry, load_x(np.int32(0))
    carry, _ = lax.fori_loop(np.int32(0), np.int32(steps), run_step, state)
    for value, ref in zip(carry, last_refs, strict=True):
        _store(partition, value, ref, rows)


def _copy_matrix(partition: Partition, source: Any, target: Any) -> list[Any]:
    """Copies a matrix into shared memory; returns those of its last rows that have no place."""
    depth, width = target.shape
    size = math.gcd(COPIED_ROWS, depth)

    def copy_rows(i: Any, _: None) -> None:
        index = pl.ds(i * np.int32(size), size), slice(None)
        target[index] = partition.load(source, index, values.grid_layout())

    lax.fori_loop(np.int32(0), np.int32(depth // size), copy_rows, None)
    groups = width // partition.columns
    rows = range(depth, source.shape[0])
    return [_load_vector(partition, source, groups, (np.int32(k),)) for k in rows]


def _load(partition: Partition, aval: Any, ref: Any, rows: Any, lead: tuple[Any, ...] = ()) -> Any:
    """Returns a Grid or a Row, read from the memory of the GPU."""
    is_bool = aval.dtype == jnp.bool_
    if role_of(partition, aval) is Row:
        x = partition.load(ref, (*lead, rows), values.row_layout())
        return Row(x != 0 if is_bool else x)
    blocks = []
    for columns in _columns(partition, partition.groups(aval.shape[-1])):
        x = partition.load(ref, (*lead, rows, columns), values.grid_layout())
        blocks.append(x != 0 if is_bool else x)
    return Grid(tuple(blocks))


def _load_constant(partition: Partition, use: Use, ref: Any, rows: Any) -> Any:
    """Returns a constant that is no matrix."""
    if use.role is Scalar:
        return Scalar(ref[np.int32(0)])
    if use.role is Vector:
        return Vector(_load_vector(partition, ref, ref.shape[0] // partition.columns))
    return _load(partition, use.var.aval, ref, rows)


def _load_vector(
    partition: Partition, ref: Any, groups: int, lead: tuple[Any, ...] = ()
) -> tuple[Any, ...]:
    """Returns the arrays of a Vector."""
    columns = _columns(partition, groups)
    return tuple(partition.load(ref, (*lead, c), values.vector_layout()) for c in columns)


def _store(
    partition: Partition, value: Any, ref: Any, rows: Any, lead: tuple[Any, ...] = ()
) -> None:
    """Writes a Grid or a Row to the memory of the GPU."""
    if isinstance(value, Row):
        partition.store(ref, (*lead, rows), _in_memory(value.value))
        return
    for columns, block in zip(_columns(partition, len(value.blocks)), value.blocks, strict=True):
        partition.store(ref, (*lead, rows, columns), _in_memory(block))


def _columns(partition: Partition, groups: int) -> list[Any]:
    """Returns the columns of each group."""
    return [pl.ds(j * partition.columns, partition.columns) for j in range(groups)]


def _in_memory(x: Any) -> Any:
    """Returns an array with its dtype in memory."""
    return jnp.where(x, jnp.int32(1), jnp.int32(0)) if x.dtype == jnp.bool_ else x


def _pack_constant(partition: Partition, use: Use, x: jax.Array) -> jax.Array:
    """Returns a constant as the kernel reads it."""
    if use.role is None:
        return partition.pad_groups(x if use.axis == 0 else x.T)
    if use.role is Scalar:
        return values.stored(jnp.reshape(x, (1,)))
    return partition.pad_groups(x) if use.role is Vector else partition.pack(x, use.role)
