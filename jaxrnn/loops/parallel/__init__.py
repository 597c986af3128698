"""All time steps at once: an associative scan for affine steps, Newton's method for others.

Each file answers one question:

    dependence   How does a value depend on the carry: is it affine, is it elementwise?
    structure    Which arrays of the carry are solved together, and in which order?
    vectors      What is the vector of a component, and what is its Jacobian?
    affine_scan  How is an affine recurrence solved for all steps at once?
    solve        How is any recurrence solved, by affine ones?
    solver       Which two recurrences does a Cell have, forward and backward?
    plain_step   How is a plain step a Cell?
    devices      What is the step before the first one of this device?
"""

import dataclasses

import jax

from jaxrnn import check, tree
from jaxrnn.expression import Expression, name_of
from jaxrnn.loops import chunks, recomputing
from jaxrnn.loops.derived import jaxprs, regions
from jaxrnn.loops.forward_mode import explain_forward_mode
from jaxrnn.loops.parallel.devices import TimeAxis
from jaxrnn.loops.parallel.plain_step import as_cell
from jaxrnn.loops.parallel.solve import Effort, Options
from jaxrnn.loops.parallel.solver import InParallel
from jaxrnn.loops.scan import scan
from jaxrnn.types import Carry, Cell, Loop, Params, PyTree, Step, StepResult

JACOBIANS = ("diagonal", "dense", "quasi_diagonal")


@dataclasses.dataclass(frozen=True, repr=False)
class parallel(Expression):
    """A Loop that computes all steps at once, in parallel over time.

    A step that is linear in its carry, c_t = a_t ⊙ c_{t-1} + b_t, is solved by an associative scan,

        (a, b)_s..t = (a_t ⊙ a_s..t-1, a_t ⊙ b_s..t-1 + b_t)                                 (1)

    in O(log T) rounds. This holds for cells such as `lru` and `min_gru`, for layers of them, for
    masks and resets around them, and for your own steps: what is linear is read from the equations
    of the step. For any other step, the trajectory is found by Newton's method, whose iterations
    are linear recurrences,

        d_t = A_t d_{t-1} + f_t(c_{t-1}) - c_t,    c_t ← c_t + d_t                           (2)

    until each step holds within the tolerance, |f_t(c_{t-1}) - c_t| ≤ tolerance · max |c|, where
    the maximum is over the steps up to t and the units of a row. If that takes more than
    `max_iterations`, the steps from the first that does not hold on run in order. So each step
    holds within the tolerance in every case. The backward recurrence is linear in λ,

        λ_{t-1} = A_tᵀ λ_t + ∂ℓ_{t-1}/∂c_{t-1}                                               (3)

    and is solved in the same way at the solution. On a CPU this loop is slower than `bptt`; it is
    made for GPUs and TPUs, where a short step costs its launch.

    A custom derivative rule in the step (`jax.custom_vjp`, and so `clip_adjoint`) has no part in
    (1) and (2). It takes the place of A_tᵀ in (3). If it is not linear in λ, (3) is solved by
    Newton's method where the rule is elementwise, and otherwise in order. Parts of the carry that
    have no derivative run in order, such as random keys, and those that a `jax.lax.while_loop` or a
    callback computes.

    Args:
        jacobian: A_t of (2) and (3). "diagonal" takes steps in which each unit of the carry reads
            its own past alone, and refuses others. "dense" takes any step, with one N x N matrix
            for each row and step. "quasi_diagonal" takes any step, and ignores all of A_t but its
            diagonal, so that it needs more iterations, also for (3).
        tolerance: defaults to 32 times the rounding error of float32 or float64, for an array of
            the carry in that dtype, and to that of narrower dtypes.
        max_iterations: the largest number of iterations of (2), at least 0.
        damping: in [0, 1). A_t of (2) is multiplied by 1 - damping, which keeps the iterations of
            an exploding step finite.
        chunk: the number of steps that are solved at once; defaults to all. Chunks run in order.
        memory_limit: the largest size of all dense A_t, in bytes or as a text such as "1GiB", which
            is the default.
        axis_name: the axis of the mesh that divides the time axis, within a `jax.shard_map`. Each
            device solves its steps, and one exchange of (a, b) joins them. Only for linear steps.

    Raises:
        TypeError, ValueError: for an option out of range. While tracing: for a step that is not
            elementwise under "diagonal", for matrices above the memory limit, for an `axis_name`
            under which the step or its adjoint is not linear or the inputs are not divided.

    Equal arguments construct equal loops.

    Where a state is not a number, it is so under `scan` too, on one device. A product of many large
    A_t may overflow where the states do not; under "dense", what overflows runs in order.

    Gradient: exact for a linear step, otherwise within the tolerance. It can be differentiated
    again unless (3) itself takes iterations, as with "quasi_diagonal". A second derivative of a
    rule is that of its function. Time: O(log T) rounds, with
    O(T) work for a linear step and O(T N³) for each iteration of "dense". Memory: O(T), for a
    linear step 1.6 to 1.9 times that of `bptt` in `python -m benchmarks linear` (a `chunk` bounds
    it); O(T N²) for "dense".

    Sources: E. Martin, C. Cundy, "Parallelizing linear recurrent neural nets over sequence length",
    ICLR 2018; Y. H. Lim, Q. Zhu, J. Selfridge, M. F. Kasim, "Parallelizing non-linear sequential
    models over the sequence length" (DEER), ICLR 2024; X. Gonzalez, A. Warrington, J. T. H. Smith,
    S. W. Linderman, "Towards scalable and stable parallelization of nonlinear RNNs", NeurIPS 2024.

    Examples:
        >>> cell = jaxrnn.min_gru(16)  # linear in its carry
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> _, ys = jaxrnn.unroll(cell, params, jnp.ones((50, 4, 8)), loop=jaxrnn.parallel())
        >>> ys.shape
        (50, 4, 16)
    """

    _: dataclasses.KW_ONLY
    jacobian: str = "diagonal"
    tolerance: float | None = None
    max_iterations: int = 50
    damping: float = 0.0
    chunk: int | None = None
    memory_limit: int | str = 2**30
    axis_name: str | None = None

    def __post_init__(self) -> None:
        names = " or ".join(map(repr, JACOBIANS))
        check.require(self.jacobian in JACOBIANS, "jacobian", repr(self.jacobian), names)
        if self.tolerance is not None:
            check.require_finite("tolerance", self.tolerance)
            self.replace_fields(tolerance=check.require_positive("tolerance", self.tolerance))
        check.require_int("max_iterations", self.max_iterations, least=0)
        self.replace_fields(damping=check.require_rate("damping", self.damping))
        if self.chunk is not None:
            check.require_int("chunk", self.chunk, least=1)
        self.replace_fields(memory_limit=check.parse_bytes("memory_limit", self.memory_limit))
        if self.axis_name is not None:
            is_name = isinstance(self.axis_name, str)
            check.require_option_type("axis_name", self.axis_name, is_name, "a name")
            got = f"{self.chunk} and axis_name={self.axis_name!r}"
            check.require(self.chunk is None, "chunk", got, "one of them")

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        _refuse_other_draws(step, params, carry, xs)
        if self.axis_name is not None:
            _require_divided(xs, self.axis_name)
        if check.num_steps(xs) == 0:
            return scan(step, params, carry, xs)
        with explain_forward_mode("parallel"):
            if isinstance(step, Cell) and step.has_handwritten_backward:
                check.require_hashable("step", step)
                return _compiled(self, step, params, carry, xs)
            return _run(self, step, params, carry, xs)

    def run_with_effort(
        self, step: Step, params: Params, carry: Carry, xs: PyTree
    ) -> tuple[Carry, list[Effort]]:
        """Returns the last carry, and the effort for each part of it that is not linear.

        `chunk` is ignored.
        """
        part = as_cell(step, params, carry, xs)
        w = part.cell.prepare(part.params)
        zs = part.cell.project(part.params, xs)
        carries, efforts = self.solver(step).carries_and_efforts(part.cell, w, part.carry, zs)
        last = jax.tree.map(lambda c: c[-1], carries)
        return part.full_carry(last), efforts

    def in_reverse(self) -> Loop:
        """Returns the loop for a sequence that each device has reversed."""
        # Without devices, a reversed sequence is like any other.
        return self if self.axis_name is None else _OnDevicesInReverse(**vars(self))

    def solver(self, step: Step) -> InParallel:
        """Returns the solver of the recurrences of a step."""
        options = Options(
            jacobian=self.jacobian,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            damping=self.damping,
            memory_limit=int(self.memory_limit),
            axis=self.time_axis,
        )
        return InParallel(name_of(step), options)

    @property
    def time_axis(self) -> TimeAxis | None:
        """The mesh axis that divides the time axis."""
        return None if self.axis_name is None else TimeAxis(self.axis_name)


def _run(loop: parallel, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
    part = as_cell(step, params, carry, xs)
    solver = loop.solver(step)

    # The outputs are computed outside of the recurrence, for all steps at once, by JAX's rules.
    def run(carry: Carry, xs: PyTree) -> StepResult:
        last, carries = recomputing.run(part.cell, solver, part.params, carry, xs)
        return last, part.cell.output(part.params, carries)

    last, ys = chunks.in_chunks_of(loop.chunk, run, part.carry, xs)
    return part.full_carry(last), ys


# A Cell does not close over traced values, so calls outside jit share one compiled program.
_compiled = jax.jit(_run, static_argnums=(0, 1))


def _refuse_other_draws(step: Step, params: Params, carry: Carry, xs: PyTree) -> None:
    """Raises an error for keys that draw other numbers for all steps at once than one by one.

    With such keys, the values of this loop would not be those of `scan`.
    """
    eqns = jaxprs.trace(step, params, carry, check.one_step(xs)).jaxpr.eqns
    fits = not any(map(regions.draws_otherwise_in_a_batch, eqns))
    got = "a step that draws with keys other than threefry"
    expected = "threefry keys, or a loop such as jaxrnn.bptt"
    check.require(fits, "step", got, expected)


def _require_divided(xs: PyTree, axis_name: str) -> None:
    """Raises an error unless each device of a mesh axis has steps of its own."""
    # The axes over which the types of the inputs say that they vary.
    varying: set[str] = set()
    for x in jax.tree.leaves(xs):
        varying |= jax.typeof(x).manual_axis_type.varying
    got = f"{axis_name!r}, and inputs that are divided over {sorted(varying)}"
    expected = "the axis of an enclosing jax.shard_map (with check_vma) that divides time"
    check.require(axis_name in varying, "axis_name", got, expected)


@dataclasses.dataclass(frozen=True, repr=False)
class _OnDevicesInReverse(parallel):
    """The loop if the first device holds the last steps."""

    @property
    def time_axis(self) -> TimeAxis | None:
        return None if self.axis_name is None else TimeAxis(self.axis_name, is_reversed=True)
