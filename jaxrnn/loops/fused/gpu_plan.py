"""What a kernel for a GPU needs: its equations, how values are divided, and where matrices lie."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Values
from jaxrnn.loops.fused.body import Body
from jaxrnn.loops.fused.gpu_equations import Evaluator, Memory, Use, value_of
from jaxrnn.loops.fused.gpu_values import (
    THREADS,
    Constant,
    Grid,
    Partition,
    Row,
    Scalar,
    Vector,
    refuse,
    role_of,
    zeros,
)

MULTIPROCESSORS = 132  # of an H100
SHARED_MEMORY = 227 * 2**10  # bytes that a block of threads may have on an H100
# What Mosaic GPU takes of it: 2 KiB for sums over threads, 1 KiB of its own.
RESERVED = 3 * 2**10
MOST_ROWS = 8  # of one block of threads; the more, the fewer reads of W for each product
UNROLL = 8  # rows of W in one iteration of the loop of a product
# The numbers of W that a thread may keep in its 255 registers, and the rows of the batch that leave
# this room.
HELD_NUMBERS = 96
ROWS_BESIDE_HELD = 4


@dataclasses.dataclass(frozen=True, eq=False)
class InnerBody(Body):
    """The part of a body that runs at every step.

    What is the same at all steps, such as a sum of two biases, is computed ahead of the kernel.

    Fields:
        ahead: computes the constants from the constants of the whole body.
    """

    ahead: Callable[[Values], Values]


def inner_body(body: Body) -> InnerBody:
    """Returns the inner body of a body, with all calls inlined."""
    avals = [[*map(jaxprs.abstract_value, v)] for v in (body.constants, body.carry, body.x)]
    traced = jaxprs.trace(jaxprs.primal(body, *avals), *avals)
    jaxpr = traced.jaxpr
    captured = traced.constants
    inputs = jaxprs.inputs_of(jaxpr)
    num_carry = len(body.carry)
    num_constants = len(captured) + len(body.constants)
    constants = inputs[:num_constants]
    changing = inputs[num_constants:]
    known = {*constants}
    ahead: list[Any] = []
    equations: list[Any] = []
    for eqn in jaxprs.needed_for(jaxpr.outvars, jaxpr.eqns):
        is_ahead = known.issuperset(jaxprs.reads([eqn]))
        (ahead if is_ahead else equations).append(eqn)
        known.update(eqn.outvars if is_ahead else [])
    # A bias takes less memory than its broadcast, so this is left to the kernel.
    producers = jaxprs.producers(ahead)
    wanted = jaxprs.unique([*jaxprs.reads(equations), *jaxprs.variables_of(jaxpr.outvars)])
    last = [producers[v] for v in wanted if v in producers]
    broadcasts = [eqn for eqn in last if eqn.primitive.name == "broadcast_in_dim"]
    equations = [*broadcasts, *equations]
    wanted = jaxprs.unique([*jaxprs.reads(equations), *jaxprs.variables_of(jaxpr.outvars)])
    computed = {*jaxprs.producers(equations), *changing}
    read = [v for v in wanted if v not in computed]

    def compute_ahead(arrays: Values) -> Values:
        env = dict(zip(constants, [*captured, *arrays], strict=True))
        env = jaxprs.evaluate_equations(jaxprs.needed_for(read, ahead), env)
        return [env[v] for v in read]

    carry = changing[:num_carry]
    x = changing[num_carry:]
    new_carry = jaxpr.outvars[:num_carry]
    y = jaxpr.outvars[num_carry:]
    structure = body.y_structure
    return InnerBody(equations, read, carry, x, new_carry, y, structure, compute_ahead)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How a block of threads runs a step.

    Fields:
        partition: how values are divided.
        uses: how constants are read.
        matrices: shape and dtype of each matrix, with the padding of its columns.
        operand: shape and dtype of the left side of products, `(groups, rows, U)`; None without.
        held: how many of the last rows of a matrix are kept in registers.
    """

    partition: Partition
    uses: list[Use]
    matrices: dict[Use, jax.ShapeDtypeStruct]
    operand: jax.ShapeDtypeStruct | None
    held: dict[Use, int]

    def shared(self, use: Use) -> jax.ShapeDtypeStruct:
        """Returns the part of a matrix that is kept in shared memory."""
        depth, width = self.matrices[use].shape
        return jax.ShapeDtypeStruct((depth - self.held[use], width), self.matrices[use].dtype)

    @property
    def scratch(self) -> list[jax.ShapeDtypeStruct]:
        """The arrays in shared memory."""
        return [*map(self.shared, self.matrices), *([self.operand] if self.operand else [])]

    @property
    def shared_bytes(self) -> int:
        """The shared memory of a block of threads."""
        return sum(map(_bytes, self.scratch)) + RESERVED


def plan(inner: InnerBody, interpret: bool) -> Plan:
    """Returns the plan for a step; raises an error if it has operations that no kernel has.

    The rows of a block are as few as the multiprocessors allow. If the matrices do not fit into
    shared memory beside the operand of these rows, the rows are fewer, and some rows of the
    matrices are kept in registers.
    """
    partition = _partition_of_one_row(inner, interpret)
    outputs = [partition.role(jaxprs.shape_of(v)) for v in [*inner.new_carry, *inner.y]]
    least = 2 if Row in outputs else 1  # Mosaic cannot write a single number
    wanted = max(least, math.prod(partition.batch) / MULTIPROCESSORS)
    rows = min(MOST_ROWS, 2 ** math.ceil(math.log2(wanted)))
    first = _plan(inner, dataclasses.replace(partition, rows=rows))
    if first.shared_bytes <= SHARED_MEMORY or not first.matrices:
        return first
    rows = min(rows, ROWS_BESIDE_HELD)
    return _with_held(_plan(inner, dataclasses.replace(partition, rows=rows)))


def require_room(plan: Plan) -> None:
    """Raises an error if the matrices do not fit on chip."""
    needed = dataclasses.replace(plan, held=dict.fromkeys(plan.held, 0)).shared_bytes
    got = f"a step that takes {needed:,} bytes on chip in fused() on a GPU"
    registers = 4 * HELD_NUMBERS * THREADS
    room = f"at most {SHARED_MEMORY:,} of shared memory and {registers:,} of registers"
    check.require(plan.shared_bytes <= SHARED_MEMORY, "step", got, f"{room}, or loop=jaxrnn.bptt")


def _partition_of_one_row(inner: InnerBody, interpret: bool) -> Partition:
    """Returns how the values of a step are divided, with one row in a block of threads."""
    batch = max((jaxprs.shape_of(v) for v in inner.carry), key=len, default=())[:-1]
    widths = {jaxprs.shape_of(v)[-1] for v in inner.carry if len(jaxprs.shape_of(v)) > len(batch)}
    partition = Partition(batch, 1, 1, widths == {1}, interpret)
    operands = [v for eqn in inner.equations for v in [*eqn.invars, *eqn.outvars]]
    shapes = [jaxprs.shape_of(v) for v in [*inner.carry, *inner.x, *operands]]
    widths = {shape[-1] for shape in shapes if partition.role(shape) is Grid}
    return dataclasses.replace(partition, unit=math.gcd(*widths) or 1)


def _plan(inner: InnerBody, partition: Partition) -> Plan:
    """Returns a plan without rows in registers."""
    recorder = Recorder(partition)

    def run() -> None:
        env: dict[Any, Any] = {v: Constant(v) for v in inner.constants}
        env |= {v: zeros(partition, v.aval) for v in [*inner.carry, *inner.x]}
        evaluator = Evaluator(partition, recorder)
        env = evaluator.run(inner.equations, env)
        for v in [*inner.new_carry, *inner.y]:
            evaluator.as_role(value_of(env, v), v.aval, role_of(partition, v.aval))

    jax.eval_shape(run)
    operand = None
    if recorder.operands:
        groups = max(groups for groups, _ in recorder.operands)
        dtype = max((dtype for _, dtype in recorder.operands), key=lambda d: d.itemsize)
        operand = jax.ShapeDtypeStruct((groups, partition.rows, partition.columns), dtype)
    held = dict.fromkeys(recorder.matrices, 0)
    return Plan(partition, recorder.uses, recorder.matrices, operand, held)


def _with_held(plan: Plan) -> Plan:
    """Returns a plan that keeps rows of its matrices in registers, as many as needed."""
    unroll = math.gcd(UNROLL, plan.partition.unit)
    room = HELD_NUMBERS
    for use, matrix in plan.matrices.items():
        numbers = matrix.shape[1] // THREADS  # of a row, in one thread
        row_bytes = _bytes(matrix) // matrix.shape[0]
        excess = plan.shared_bytes - SHARED_MEMORY
        wanted = math.ceil(max(0, excess) / row_bytes / unroll) * unroll
        most = min(room // numbers, plan.partition.unit) // unroll * unroll
        plan = dataclasses.replace(plan, held=plan.held | {use: min(wanted, most)})
        room -= plan.held[use] * numbers
    return plan


class Recorder(Memory):
    """Records which constants and products a step needs.

    Attributes:
        uses: how constants are read.
        matrices: shape and dtype of each matrix.
        operands: the groups and the dtype of the left side of each product.
    """

    def __init__(self, partition: Partition) -> None:
        """Starts without any."""
        self.partition = partition
        self.uses: list[Use] = []
        self.matrices: dict[Use, jax.ShapeDtypeStruct] = {}
        self.operands: list[tuple[int, Any]] = []

    def constant(self, use: Use) -> Any:
        """Records a use, and returns zeros."""
        self._add(use)
        aval = use.var.aval
        if use.role is Scalar:
            return Scalar(jnp.zeros((), aval.dtype))
        if use.role is Vector:
            groups = self.partition.groups(aval.shape[-1])
            return Vector((jnp.zeros(self.partition.columns, aval.dtype),) * groups)
        return zeros(self.partition, aval)

    def product(self, x: Grid, use: Use, dtype: Any) -> Grid:
        """Records a matrix, and returns zeros."""
        partition = self.partition
        w = use.var.aval
        if any(size % partition.unit for size in w.shape):
            refuse(f"a product with {check.describe(w)}")
        depth, width = w.shape if use.axis == 0 else w.shape[::-1]
        groups = partition.groups(width)
        self._add(use)
        self.matrices[use] = jax.ShapeDtypeStruct((depth, groups * partition.columns), w.dtype)
        self.operands.append((len(x.blocks), wide(dtype)))
        return Grid((jnp.zeros((partition.rows, partition.columns), dtype),) * groups)

    def _add(self, use: Use) -> None:
        if use not in self.uses:
            self.uses.append(use)


def wide(dtype: Any) -> Any:
    """Returns the dtype of the sums of a product."""
    return max((jnp.dtype(dtype), jnp.dtype("float32")), key=lambda d: d.itemsize)


def _bytes(shape: jax.ShapeDtypeStruct) -> int:
    return math.prod(shape.shape) * jnp.dtype(shape.dtype).itemsize
