"""A scan as one kernel for an NVIDIA GPU, by Pallas for Mosaic GPU.

A block of 128 threads runs all steps for some rows of the batch, on one multiprocessor. The
recurrent kernels are copied into its shared memory once, and the carry stays in the registers of
the threads:

    memory of the GPU   matrices            xs[t + 1]               ys[t]
                          | once              | while step t runs     |
    shared memory       matrices   h_{t-1}     |                       |
                               \\  /            |                       |
    registers           carry   h_{t-1} W ->  step t  ----------------+

A thread has its columns of all values, so elementwise equations need no other thread. For a product
p = h W, the threads write h to shared memory, and each computes its columns of p, one row of W
after another: p += h[:, k] W[k, :]. These are products and sums of float32, without TF32.

All blocks of threads are independent, and each has all of W, so W has to fit into the shared memory
of one multiprocessor.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.fused import gpu_values as values
from jaxrnn.loops.fused.body import Arrays, Body, Values
from jaxrnn.loops.fused.gpu_equations import Evaluator, Memory, Use, value_of
from jaxrnn.loops.fused.gpu_values import Constant, Form, Grid, Row, Scalar, Vector, refuse

MULTIPROCESSORS = 132  # of an H100
SHARED_MEMORY = 227 * 2**10  # bytes that a block of threads may have on an H100
# What Mosaic GPU takes of it: 2 KiB for sums over threads, 1 KiB of its own.
RESERVED = 3 * 2**10
MOST_ROWS = 8  # of one block of threads; the more, the fewer reads of W for each product
UNROLL = 8  # rows of W in one iteration of the loop of a product
COPIED_ROWS = 8  # rows of W that are copied at once


class Loop(NamedTuple):
    """The equations of a step, without those that are the same at all steps.

    Fields:
        equations: what a step computes.
        constants: the variables of the constants that the equations read.
        carry, x, new_carry, y: as in `Body`.
        ahead: computes the constants from the constants of the body.
    """

    equations: list[Any]
    constants: list[Any]
    carry: list[Any]
    x: list[Any]
    new_carry: list[Any]
    y: list[Any]
    ahead: Any


def _loop(body: Body) -> Loop:
    """Returns the loop of a body, with all calls inlined."""
    variables = [body.constants, body.carry, body.x]
    avals = jax.tree.map(jaxprs.abstract_value, variables)
    run = jaxprs.primal(body, *avals)
    jaxpr, captured, _ = jaxprs.flat_jaxpr(run, *avals)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    num_carry, num_x = len(body.carry), len(body.x)
    num_constants = len(inputs) - num_carry - num_x
    constants, carry = inputs[:num_constants], inputs[num_constants : num_constants + num_carry]
    known, ahead, equations = {*constants}, [], []
    for eqn in jaxprs.needed_for(jaxpr.outvars, jaxpr.eqns):
        is_ahead = known.issuperset(jaxprs.reads([eqn]))
        (ahead if is_ahead else equations).append(eqn)
        known.update(eqn.outvars if is_ahead else [])
    # A broadcast bias takes less memory than its result.
    producers, wanted = jaxprs.producers(ahead), [*jaxprs.reads(equations), *jaxpr.outvars]
    broadcasts = [
        producers[v]
        for v in jaxprs.unique(jaxprs.variables_of(wanted))
        if v in producers and producers[v].primitive.name == "broadcast_in_dim"
    ]
    equations = [*broadcasts, *equations]
    computed = {*jaxprs.producers(equations), *inputs[num_constants:]}
    wanted = [*jaxprs.reads(equations), *jaxprs.variables_of(jaxpr.outvars)]
    read = [v for v in jaxprs.unique(wanted) if v not in computed]

    def compute_ahead(arrays: Values) -> Values:
        env = dict(zip(constants, [*captured, *arrays], strict=True))
        env = jaxprs.evaluate_equations(jaxprs.needed_for(read, ahead), env)
        return [env[v] for v in read]

    new_carry, y = jaxpr.outvars[:num_carry], jaxpr.outvars[num_carry:]
    return Loop(equations, read, carry, inputs[-num_x:] if num_x else [], new_carry, y, compute_ahead)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel of a scan.

    Fields:
        body: one step.
        steps: T, at least 1.
        reverse: whether the last step runs first.
        interpret: whether JAX interprets the kernel, on any device.
    """

    body: Body
    steps: int
    reverse: bool
    interpret: bool

    @functools.cached_property
    def loop(self) -> Loop:
        """The equations of a step."""
        return _loop(self.body)

    @functools.cached_property
    def form(self) -> Form:
        """How the values of a step are divided."""
        batch = max((v.aval.shape for v in self.loop.carry), key=len, default=())[:-1]
        rows = math.prod(batch)
        per_block = min(MOST_ROWS, 2 ** math.ceil(math.log2(max(1, rows / MULTIPROCESSORS))))
        widths = {v.aval.shape[-1] for v in self.loop.carry if len(v.aval.shape) > len(batch)}
        has_columns_of_one = widths == {1}
        form = Form(batch, 1, per_block, has_columns_of_one, self.interpret)
        results = [v for eqn in self.loop.equations for v in [*eqn.invars, *eqn.outvars]]
        shapes = [v.aval.shape for v in [*self.loop.carry, *self.loop.x, *results]]
        widths = {shape[-1] for shape in shapes if form.role(shape) is Grid}
        return dataclasses.replace(form, unit=math.gcd(*widths) or 1)

    @functools.cached_property
    def needs(self) -> "Recorder":
        """The constants and the products of a step; raises an error if it has no kernel."""
        form, loop = self.form, self.loop
        recorder = Recorder(form)

        def run() -> None:
            inputs = [*loop.carry, *loop.x]
            given = {v: _zeros(form, v.aval) for v in inputs}
            env = {v: Constant(v) for v in loop.constants} | given
            evaluator = Evaluator(form, recorder)
            env = evaluator.run(loop.equations, env)
            for v in [*loop.new_carry, *loop.y]:
                evaluator.as_role(value_of(env, v), v.aval, _role(form, v.aval))

        jax.eval_shape(run)
        return recorder

    @property
    def bytes_of_shared_memory(self) -> int:
        """The shared memory of a block of threads."""
        matrices = sum(_bytes(shape) for shape in self.needs.matrices.values())
        return matrices + sum(map(_bytes, self._operand)) + RESERVED

    @property
    def _operand(self) -> list[jax.ShapeDtypeStruct]:
        """The shared memory for the left side of a product, `(groups, rows, U)`, or none."""
        if not self.needs.operands:
            return []
        groups = max(shape.shape[0] for shape in self.needs.operands)
        dtype = max((shape.dtype for shape in self.needs.operands), key=lambda d: d.itemsize)
        return [jax.ShapeDtypeStruct((groups, self.form.rows, self.form.columns), dtype)]

    def require_room(self) -> None:
        """Raises an error if the matrices do not fit into the shared memory."""
        needed = self.bytes_of_shared_memory
        got = f"a step that takes {needed:,} bytes of shared memory in fused() on a GPU"
        expected = f"at most {SHARED_MEMORY:,}, or loop=jaxrnn.bptt"
        check.require(needed <= SHARED_MEMORY, "step", got, expected)

    def require_lowering(self, arrays: Arrays) -> None:
        """Raises an error if Mosaic GPU has no code for the step."""
        fits = hasattr(plgpu, "InterpretGPUParams")
        check.require(fits, "jax", jax.__version__, "0.11.2 or newer for fused() on a GPU", TypeError)
        for v in [*self.loop.carry, *self.loop.x, *jaxprs.producers(self.loop.equations)]:
            if v.aval.dtype.itemsize > 4:
                refuse(f"{v.aval.dtype} numbers", "numbers of 32 bits at most")
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        try:
            jax.jit(self.run).trace(shapes).lower(lowering_platforms=("cuda",))
        except Exception as error:  # of many classes, some of them of the compiler
            reason = str(error).strip().splitlines()[0]
            got = f"a step that Mosaic GPU does not compile for fused() ({reason})"
            expected = "operations that Mosaic GPU has, or loop=jaxrnn.bptt"
            raise TypeError(f"step: got {got}, expected {expected}") from error

    def run(self, arrays: Arrays) -> tuple[Values, Values]:
        """Returns the leaves of the last carry and of the outputs."""
        form, loop, needs = self.form, self.loop, self.needs
        constants = dict(zip(loop.constants, loop.ahead(arrays.constants), strict=True))
        operands = [
            *(_pack_constant(form, use, constants[use.var]) for use in needs.uses),
            *(_pack(form, v.aval, x) for v, x in zip(loop.carry, arrays.carry, strict=True)),
            *(_pack(form, v.aval, x, lead=1) for v, x in zip(loop.x, arrays.xs, strict=True)),
        ]
        outputs = [
            *(form.packed(v.aval) for v in loop.new_carry),
            *(form.packed(v.aval, lead=(self.steps,)) for v in loop.y),
        ]
        scratch = [*needs.matrices.values(), *self._operand]
        results = _call(
            functools.partial(_run_block, self),
            outputs,
            [plgpu.SMEM(shape.shape, shape.dtype) for shape in scratch],
            self.interpret,
            form.blocks_of_threads,
        )(*operands)
        num_carry = len(loop.carry)
        last = [
            form.unpack(x, v.aval)
            for x, v in zip(results[:num_carry], loop.new_carry, strict=True)
        ]
        ys = [
            form.unpack(x, v.aval, lead=1) for x, v in zip(results[num_carry:], loop.y, strict=True)
        ]
        return last, ys


def _call(kernel: Any, outputs: Any, scratch: Any, interpret: bool, blocks: int) -> Any:
    """Returns the function that runs a kernel; its keywords depend on the version of JAX."""
    is_new = hasattr(plgpu, "InterpretGPUParams")
    names = ("out_type", "scratch_types") if is_new else ("out_shape", "scratch_shapes")
    options: dict[str, Any] = dict(zip(names, (outputs, scratch), strict=True))
    if interpret:
        from jax._src.pallas.mosaic_gpu.interpret import params  # public since JAX 0.11.2

        options["interpret"] = params.InterpretGPUParams(detect_races=True)
    else:
        semantics = plgpu.LoweringSemantics.Lane
        options["compiler_params"] = plgpu.CompilerParams(lowering_semantics=semantics)
    return plgpu.kernel(kernel, grid=(blocks,), grid_names=("block",), **options)


class Recorder(Memory):
    """Records which constants and products a step needs.

    Attributes:
        uses: how constants are read.
        matrices: shape and dtype of each matrix in shared memory.
        operands: shape and dtype of the left side of each product.
    """

    def __init__(self, form: Form) -> None:
        """Starts without any."""
        self.form = form
        self.uses: list[Use] = []
        self.matrices: dict[Use, jax.ShapeDtypeStruct] = {}
        self.operands: list[jax.ShapeDtypeStruct] = []

    def constant(self, use: Use) -> Any:
        """Records a use, and returns zeros."""
        self._add(use)
        aval = use.var.aval
        if use.role is Scalar:
            return Scalar(jnp.zeros((), aval.dtype))
        if use.role is Vector:
            blocks = self.form.groups(aval.shape[-1])
            return Vector((jnp.zeros(self.form.columns, aval.dtype),) * blocks)
        return _zeros(self.form, aval)

    def product(self, x: Grid, use: Use, dtype: Any) -> Grid:
        """Records a matrix, and returns zeros."""
        form, w = self.form, use.var.aval
        if any(size % form.unit for size in w.shape):
            refuse(f"a product with {check.describe(w)}")
        depth, width = w.shape if use.axis == 0 else w.shape[::-1]
        groups = form.groups(width)
        self._add(use)
        self.matrices[use] = jax.ShapeDtypeStruct((depth, groups * form.columns), w.dtype)
        shape = len(x.blocks), form.rows, form.columns
        self.operands.append(jax.ShapeDtypeStruct(shape, _wide(dtype)))
        return Grid((jnp.zeros((form.rows, form.columns), dtype),) * groups)

    def _add(self, use: Use) -> None:
        if use not in self.uses:
            self.uses.append(use)


@dataclasses.dataclass(frozen=True)
class OnChip(Memory):
    """The constants of a kernel.

    Fields:
        form: how values are divided.
        values: the constants in registers.
        matrices: the references to shared memory.
        operand: the reference to the shared memory for the left side of a product.
    """

    form: Form
    values: dict[Use, Any]
    matrices: dict[Use, Any]
    operand: Any

    def constant(self, use: Use) -> Any:
        """Returns a constant that was loaded before the loop."""
        return self.values[use]

    def product(self, x: Grid, use: Use, dtype: Any) -> Grid:
        """Returns x W, as a sum over the rows of W."""
        form, w, columns = self.form, self.matrices[use], self.form.columns
        wide, groups = _wide(dtype), w.shape[1] // columns
        for j, block in enumerate(x.blocks):
            self.operand[j] = block.astype(w.dtype).astype(wide)
        sums = tuple(form.fill(0, wide) for _ in range(groups))
        unroll = math.gcd(UNROLL, form.unit)
        for j in range(len(x.blocks)):

            def add_rows(i: Any, sums: tuple[Any, ...], j: int = j) -> tuple[Any, ...]:
                for offset in range(unroll):
                    k = i * np.int32(unroll) + np.int32(offset)
                    index = (np.int32(j), slice(None), k)
                    x_k = form.load(self.operand, index, values.row_layout())
                    x_k = form.grid(x_k, (0,))
                    row = k + np.int32(j * form.unit)
                    w_k = [
                        form.load(w, (row, pl.ds(g * columns, columns)), values.vector_layout())
                        for g in range(groups)
                    ]
                    pairs = zip(sums, w_k, strict=True)
                    sums = tuple(s + x_k * form.grid(v.astype(wide), (1,)) for s, v in pairs)
                return sums

            steps = np.int32(form.unit // unroll)
            sums = lax.fori_loop(np.int32(0), steps, add_rows, sums)
        return Grid(tuple(s.astype(dtype) for s in sums))


def _run_block(kernel: Kernel, *refs: Any) -> None:
    """Runs all steps for the rows of one block of threads; this is the code of the kernel."""
    form, loop, needs = kernel.form, kernel.loop, kernel.needs
    num_carry, steps = len(loop.carry), kernel.steps
    sizes = len(needs.uses), num_carry, len(loop.x), num_carry, len(loop.y), len(needs.matrices), 1
    constant_refs, first_refs, x_refs, last_refs, y_refs, matrix_refs, operand = _split(refs, sizes)
    matrices = dict(zip(needs.matrices, matrix_refs, strict=True))
    rows = pl.ds(lax.axis_index("block") * np.int32(form.rows), form.rows)

    constants = {}
    for use, ref in zip(needs.uses, constant_refs, strict=True):
        if use in matrices:
            _copy_matrix(form, ref, matrices[use])
        else:
            constants[use] = _load_constant(form, use, ref, rows)
    memory = OnChip(form, constants, matrices, operand[0] if operand else None)
    evaluator = Evaluator(form, memory)

    def time(n: Any) -> Any:
        """Returns the step of iteration n; after the last one the last one again."""
        n = jnp.minimum(n, np.int32(steps - 1))
        return np.int32(steps - 1) - n if kernel.reverse else n

    def load_x(n: Any) -> Values:
        t = time(n)
        pairs = zip(loop.x, x_refs, strict=True)
        return [_load(form, v.aval, ref, rows, (t,)) for v, ref in pairs]

    def run_step(n: Any, state: tuple[Values, Values]) -> tuple[Values, Values]:
        carry, x = state
        next_x = load_x(n + np.int32(1))  # arrives while this step runs
        env = {v: Constant(v) for v in loop.constants}
        env |= dict(zip([*loop.carry, *loop.x], [*carry, *x], strict=True))
        env = evaluator.run(loop.equations, env)

        def result(v: Any) -> Any:
            return evaluator.as_role(value_of(env, v), v.aval, _role(form, v.aval))

        for v, ref in zip(loop.y, y_refs, strict=True):
            _store(form, result(v), ref, rows, (time(n),))
        return [result(v) for v in loop.new_carry], next_x

    carry = [_load(form, v.aval, ref, rows) for v, ref in zip(loop.carry, first_refs, strict=True)]
    state = carry, load_x(np.int32(0))
    carry, _ = lax.fori_loop(np.int32(0), np.int32(steps), run_step, state)
    for value, ref in zip(carry, last_refs, strict=True):
        _store(form, value, ref, rows)


def _copy_matrix(form: Form, source: Any, target: Any) -> None:
    """Copies a matrix into shared memory."""
    depth, width = source.shape
    size = math.gcd(COPIED_ROWS, depth)

    def copy_rows(i: Any, _: None) -> None:
        index = pl.ds(i * np.int32(size), size), slice(None)
        target[index] = form.load(source, index, values.grid_layout())

    lax.fori_loop(np.int32(0), np.int32(depth // size), copy_rows, None)


def _load(form: Form, aval: Any, ref: Any, rows: Any, lead: tuple[Any, ...] = ()) -> Any:
    """Returns a Grid or a Row, read from the memory of the GPU."""
    is_bool = aval.dtype == jnp.bool_
    if _role(form, aval) is Row:
        x = form.load(ref, (*lead, rows), values.row_layout())
        return Row(x != 0 if is_bool else x)
    blocks = []
    for j in range(form.groups(aval.shape[-1])):
        index = (*lead, rows, pl.ds(j * form.columns, form.columns))
        x = form.load(ref, index, values.grid_layout())
        blocks.append(x != 0 if is_bool else x)
    return Grid(tuple(blocks))


def _load_constant(form: Form, use: Use, ref: Any, rows: Any) -> Any:
    """Returns a constant that is no matrix."""
    if use.role is Scalar:
        return Scalar(ref[np.int32(0)])
    if use.role is Vector:
        groups = range(ref.shape[0] // form.columns)
        indices = [(pl.ds(j * form.columns, form.columns),) for j in groups]
        return Vector(tuple(form.load(ref, i, values.vector_layout()) for i in indices))
    return _load(form, use.var.aval, ref, rows)


def _store(form: Form, value: Any, ref: Any, rows: Any, lead: tuple[Any, ...] = ()) -> None:
    """Writes a Grid or a Row to the memory of the GPU."""
    if isinstance(value, Row):
        form.store_row(ref, (*lead, rows), _in_memory(value.value))
        return
    for j, block in enumerate(value.blocks):
        ref[(*lead, rows, pl.ds(j * form.columns, form.columns))] = _in_memory(block)


def _in_memory(x: Any) -> Any:
    """Returns an array with its dtype in memory."""
    return jnp.where(x, jnp.int32(1), jnp.int32(0)) if x.dtype == jnp.bool_ else x


def _pack(form: Form, aval: Any, x: Any, lead: int = 0) -> jax.Array:
    return form.pack(x, _role(form, aval), lead=lead)


def _pack_constant(form: Form, use: Use, x: jax.Array) -> jax.Array:
    """Returns a constant as the kernel reads it."""
    if use.role is None:
        return form.pad_groups(x if use.axis == 0 else x.T)
    if use.role is Scalar:
        return values.stored(jnp.reshape(x, (1,)))
    return form.pad_groups(x) if use.role is Vector else form.pack(x, use.role)


def _zeros(form: Form, aval: Any) -> Any:
    """Returns a Grid or a Row of zeros."""
    if _role(form, aval) is Row:
        return Row(jnp.zeros(form.rows, aval.dtype))
    block = jnp.zeros((form.rows, form.columns), aval.dtype)
    return Grid((block,) * form.groups(aval.shape[-1]))


def _role(form: Form, aval: Any) -> Any:
    """Returns Grid or Row; raises an error for another shape."""
    role = form.role(aval.shape)
    if role is None:
        refuse(f"{check.describe(aval)} beside the batch {form.batch}")
    return role


def _wide(dtype: Any) -> Any:
    """Returns the dtype of the sums of a product."""
    return max((dtype, jnp.dtype("float32")), key=lambda d: d.itemsize)


def _bytes(shape: jax.ShapeDtypeStruct) -> int:
    return math.prod(shape.shape) * jnp.dtype(shape.dtype).itemsize


def _split(refs: tuple[Any, ...], sizes: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Splits the arguments of the kernel into groups of these sizes."""
    groups = []
    for size in sizes:
        groups.append(refs[:size])
        refs = refs[size:]
    return groups
