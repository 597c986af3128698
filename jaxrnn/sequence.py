"""The front door: a cell, a step or a network over a sequence, under any loop."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from jaxrnn import check, tree, types
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.scan import scan
from jaxrnn.transforms import Masked, Restarted, Restarting, masked, restarted
from jaxrnn.transforms.noise import noised
from jaxrnn.types import Array, Carry, Cell, Key, Layer, Loop, Network, Params, Part, PyTree, Step


class History(NamedTuple):
    """All that one cell went through.

    Fields:
        carries: c_1..c_T, each leaf `(T, *batch, features)`.
        saved: what `advance` remembers at every step, such as the values of all gates
            (`LSTMGates`); the empty tuple for a plain Step.
    """

    carries: Carry
    saved: PyTree


def unroll(
    cell: Part | Step,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    loop: Loop = bptt,
    mask: Bool[Array, " T *batch"] | None = None,
    lengths: Integer[Array, "*batch"] | None = None,
    fill: float = 0.0,
    reset: Bool[Array, " T *batch"] | None = None,
    reset_carry: Carry | None = None,
    reverse: bool = False,
    key: Key | None = None,
) -> tuple[Carry, PyTree]:
    """Run a cell over a sequence: c_t, y_t = cell(params, c_{t-1}, x_t) for t = 1..T.

        c̃_{t-1} = r_t ? c_0 : c_{t-1}                                  with `reset`          (1)
        c_t     = m_t ? cell(params, c̃_{t-1}, x_t) : c̃_{t-1}           with `mask`           (2)
        y_t     = m_t ? output(c_t) : 0                                                      (3)

    Many-to-many uses `ys`; many-to-one uses `cell.output(params, carry)`, the last *valid* output
    of every row, and the outputs that nobody used send no `(T, ...)` array of zeros back.

    Args:
        cell: a Cell, a Layer, a Network, or a plain Step, for which `carry` has to be given.
        params: the cell's parameters; outputs and carries keep their dtype.
        xs: `(T, *batch, I)`, any number of batch axes and none; T = 0 gives the carry back. What
            begins with `embedding` takes tokens, integers `(T, *batch)`. (Batch first?
            `jaxrnn.time_first`.) Rows may lie over devices.
        carry: the state before the first step, of exactly the batch and dtype of the sequence; the
            cell's zero state, over devices as the rows are, unless given.
        loop: the gradient algorithm; all give the same values.
        mask: m, True where a step counts, in any pattern. Whatever xs holds elsewhere, NaN too,
            reaches neither values nor gradients.
        lengths: how many steps of each row count, from 0 to T, in place of a mask; clipped to that
            where they are traced.
        fill: what stands in the place of padded inputs, but for integers, such as tokens, where it
            is 0; a plain Step has to make finite numbers with finite slopes of it.
        reset: r, True where a new sequence begins: its step t starts from `reset_carry`, whatever
            the mask says, and no gradient crosses. It is `done[t-1]` for those who have `done[t]`
            after step t. The argument `carry` starts the array and is never returned to.
        reset_carry: c_0, of the form of the carry; the cell's zero state unless given. It may be
            learned.
        reverse: run from the last step to the first, over the valid steps alone; ys[t] still
            belongs to xs[t], and a reset at t still cuts between t-1 and t.
        key: draws the noise of cells that have some; the same key gives the same noise under every
            loop. Without it they are deterministic.

    Returns:
        The carry after the last valid step taken, and ys `(T, *batch, H)`.

    Raises:
        TypeError, ValueError: while tracing, naming the argument that does not fit.

    Gradient: what `loop` makes of it; by default exact backpropagation through time.
    """
    run = _Run(loop, mask, lengths, fill, reset, reset_carry, key, reverse)
    return _checked(run, cell, params, xs, carry)


def history(
    cell: Part | Step, params: Params, xs: PyTree, carry: Carry = None, **options: Any
) -> tuple[PyTree, PyTree]:
    """Run as `unroll` does, and return every state on the way in the place of the last carry.

    Args:
        cell: as in `unroll`, like all other arguments.
        params: ″.
        xs: ″.
        carry: ″.
        **options: ″; with `reverse` the states, too, stand where their inputs do.

    Returns:
        A `History` (of a Network: a tree of them, as its carry has it), and ys as from `unroll`.
        Where the mask is False, carries are those held and what was saved is zero.

    Gradient: that of `unroll`. Time: one more `advance`, of all steps at once.
    """
    known = [field.name for field in dataclasses.fields(_Recording)]
    unknown = sorted(options.keys() - {*known})
    check.that(not unknown, "options", ", ".join(unknown), f"some of {', '.join(known)}", TypeError)
    return _checked(_Recording(**options), cell, params, xs, carry)


def mask_of_lengths(lengths: Integer[Array, "*batch"], steps: int) -> Bool[Array, " T *batch"]:
    """The mask of right-padded rows, m_t = t < length, t from 0.

    Args:
        lengths: `(*batch)`, integers from 0 to `steps`; ValueError outside where they are concrete,
            clipped where they are traced.
        steps: T.

    Returns:
        `(T, *batch)`, bool.
    """
    check.integer("steps", steps, least=0)
    check.integers("lengths", lengths)
    check.arrays(lengths=lengths)
    if not isinstance(lengths, jax.core.Tracer):
        outside = sorted({int(n) for n in jax.device_get(lengths).ravel() if not 0 <= n <= steps})
        check.that(not outside, "lengths", outside, f"integers from 0 to T = {steps}")
    lengths = jnp.asarray(lengths).astype(jnp.result_type(int))  # a byte cannot count to T
    return jax.lax.broadcasted_iota(lengths.dtype, (steps, *lengths.shape), 0) < lengths[None]


@dataclasses.dataclass(frozen=True)
class _Run:
    """What runs a part of a network: the arguments of `unroll` as they are for that part."""

    loop: Loop = bptt
    mask: Any = None
    lengths: Any = None
    fill: float = 0.0
    reset: Any = None
    reset_carry: Any = None
    key: Any = None
    reverse: bool = False

    def __call__(
        self, part: Any, params: Params, carry: Carry, xs: PyTree, index=None, *, turned=False
    ) -> tuple[Any, PyTree]:
        """Run a part that is number `index` of its network, if any; see `types.Network`."""
        run = self if index is None else self._of(index, turned)
        if isinstance(part, Network):
            return part.through(run, params, carry, xs)
        if run.key is not None and getattr(part, "noise", None) is not None:
            params, xs = noised(part.noise, run.key, params, carry, xs)
        if isinstance(part, Layer):
            return (), part.apply(params, xs)
        return run._leaf(part, params, carry, xs)

    def _of(self, index: int, turned: bool) -> "_Run":
        """The same, for one part of a network."""
        start = None if self.reset_carry is None else self.reset_carry[index]
        key = None if self.key is None else jax.random.fold_in(self.key, index)
        loop, reverse = types.loop_of_part(self.loop, index), self.reverse != turned
        return dataclasses.replace(self, loop=loop, reset_carry=start, key=key, reverse=reverse)

    def _leaf(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
        """A Cell or a plain Step, with what the run adds to it."""
        mask, reset = self.mask, self.reset
        if mask is not None:
            step, xs = masked(step, fill=self.fill), Masked(xs, mask)
        if reset is not None:
            start = self.reset_carry
            if start is None:
                start = _zero(step, params, xs, reset.shape[1:])
            # Only what was given can have a gradient.
            step = restarted(step, learned=self.reset_carry is not None)
            if self.reverse:
                # Cutting between t-1 and t: before step t-1 if that is the later one to be taken.
                reset = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
            params, xs = Restarting(params, start), Restarted(xs, reset)
        xs = tree.flipped(xs) if self.reverse else xs
        result, ys = self._looped(step, params, carry, xs)
        return result, tree.flipped(ys) if self.reverse else ys

    def _looped(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
        return check.looped("loop", self.loop(step, params, carry, xs))


class _Recording(_Run):
    """A run that hands back a History in the place of the last carry."""

    def _looped(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
        if not isinstance(step, Cell):

            def recording(params: Params, carry: Carry, x: PyTree) -> tuple[Carry, PyTree]:
                carry, y = step(params, carry, x)
                return carry, (carry, y)

            _, (carries, ys) = check.looped("loop", self.loop(recording, params, carry, xs))
            return self._kept(History(carries, ())), ys
        shown = dataclasses.replace(step, output=_as_they_are)
        _, carries = check.looped("loop", self.loop(shown, params, carry, xs))
        # What was saved is a function of the carries: all steps at once, outside the loop.
        advance = jax.vmap(step.advance, in_axes=(None, 0, 0))
        carries_tm1, zs = tree.shifted(carry, carries), step.project(params, xs)
        _, saved = advance(step.prepare(params), carries_tm1, zs)
        return self._kept(History(carries, saved)), step.output(params, carries)

    def _kept(self, states: History) -> History:
        states = tree.flipped(states) if self.reverse else states
        if self.mask is None:
            return states
        return states._replace(saved=tree.zero_unless(self.mask, states.saved))


def _zero(cell: Any, params: Params, xs: PyTree, batch: tuple[int, ...]) -> Carry:
    """The zero state, laid over the devices of an explicit mesh as the inputs' rows are."""
    carry = cell.carry(batch, check.float_dtype(params))
    of_xs = jax.typeof(jax.tree.leaves(xs)[0]).sharding
    of_rows = of_xs.update(spec=of_xs.spec[1 : 1 + len(batch)])
    return jax.sharding.reshard(carry, of_rows) if any(of_rows.spec) else carry


def _as_they_are(params: Params, carries: Carry) -> Carry:
    return carries


def _checked(run: Any, cell: Any, params: Params, xs: PyTree, carry: Carry) -> Any:
    """What the run makes of the cell, once all is known to fit: lengths made its mask, padding
    filled, and the first carry there.
    """
    check.function("cell", cell, takes=3)
    check.function("loop", run.loop, takes=4)
    check.boolean("reverse", run.reverse)
    check.finite("fill", run.fill)
    marks = {"mask": run.mask, "lengths": run.lengths, "reset": run.reset}
    check.arrays(params=params, carry=carry, reset_carry=run.reset_carry, **marks)
    steps, mask = check.length(xs), run.mask
    batch: Any = None
    check.arrays(xs=xs)
    one = mask is None or run.lengths is None
    check.that(one, "lengths", "both mask and lengths", "one of them")
    both = run.reset is not None or run.reset_carry is None
    check.that(both, "reset_carry", "a carry and no reset", "both")
    if run.key is not None:
        check.key("key", run.key)
        noisy = cell.noisy if isinstance(cell, Network) else getattr(cell, "noise", None)
        check.that(noisy, "key", "a key", "None, since nothing in the cell draws noise")
    if isinstance(cell, Part):
        batch = check.batch_shape(check.at_one_step(xs), cell.num_feature_axes)
        if isinstance(cell, Cell):
            jax.eval_shape(cell.project, params, xs)  # raises unless they fit
        like = check.zero_carry(cell.carry, batch, check.float_dtype(params))
        for name, given in (("carry", carry), ("reset_carry", run.reset_carry)):
            if given is not None:
                check.same_tree(name, given, like)
        if not isinstance(cell, Cell) or cell.noise is not None:
            # What only the parts can tell, before anything is computed.
            abstract = _Run(scan, key=run.key, reverse=run.reverse)

            def result(params: Params, xs: PyTree) -> tuple[Carry, PyTree]:
                return abstract(cell, params, _zero(cell, params, xs, batch), xs)

            jax.eval_shape(result, params, xs)
    else:
        needed = carry if run.reset is None else run.reset_carry
        for name, given in (("carry", carry), ("reset_carry", needed)):
            expected = "a carry, since a plain Step has no zero state"
            check.that(given is not None, name, None, expected)
        check.same_tree("reset_carry", needed, carry, ", as the carry")
    for name, marks in (("mask", mask), ("reset", run.reset)):
        if marks is not None:
            check.marks(name, marks, steps)
            check.rows(name, marks.shape[1:], batch, carry)
    if run.lengths is not None:
        check.integers("lengths", run.lengths)
        check.rows("lengths", run.lengths.shape, batch, carry)
        mask = mask_of_lengths(run.lengths, steps)
    if mask is not None and batch is None:
        check.inputs_lead(xs, mask.shape)
    if carry is None:
        carry = _zero(cell, params, xs, batch)
    given = mask, run.reset, run.reset_carry, carry
    mask, reset, reset_carry, carry = tree.to_arrays("given", given)
    xs = xs if mask is None else tree.filled(mask, xs, run.fill)
    run = dataclasses.replace(run, mask=mask, reset=reset, reset_carry=reset_carry)
    result, ys = run(cell, params, carry, xs)
    return result, ys if mask is None else tree.zero_unless(mask, ys)  # (3)
