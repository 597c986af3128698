"""What all online algorithms share: the state, masks and resets, and the gradient of a call."""

import abc
import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.expression import Expression, name_of
from jaxrnn.online.rows import OVER_ROWS, Arguments, Leaves, RowStep, Weights, widest
from jaxrnn.types import Array, Carry, Key, Params, PyTree, Step


class OnlineState(NamedTuple):
    """What a learner carries from step to step.

    Fields:
        carry: the recurrent state c_t.
        influence: what is kept of ∂c_t/∂w, arrays `(*batch, ...)`; None before the first update.
        key: the key from which random numbers are drawn; None if the learner draws none.
    """

    carry: Carry
    influence: PyTree
    key: Key | None


Update = tuple[Params, OnlineState, jax.Array]  # the gradient, the next state, the losses


@runtime_checkable
class Influence(Protocol):
    """What an algorithm keeps of the influence S_t = ∂v_t/∂w, for B rows.

    The object holds what does not change from step to step. The numbers of S_t, here `influence`,
    are a tree of arrays, whose form only the object knows.
    """

    def zeros(self, rows: int) -> PyTree:
        """Returns S_0 = 0, arrays `(B, ...)`."""

    def past_gradient(self, influence: Any, d_v: jax.Array) -> list[Any]:
        """Returns Σ_rows (∂L/∂v_{t-1}) S_{t-1} for each weight array."""

    def advance(self, influence: Any, arguments: Arguments, key: Key | None) -> PyTree:
        """Returns S_t, given S_{t-1} and the arguments of the step."""


class Learner(Expression, abc.ABC):
    """An online algorithm for a Step whose output is its loss, as a pair of pure functions."""

    step: Step
    needs_key = False  # whether it draws random numbers
    is_cut = False  # whether recurrent connections have no gradient

    @abc.abstractmethod
    def influence(self, row: RowStep, arguments: Arguments) -> Influence:
        """Returns what the algorithm keeps, for the arguments of one row or their shapes."""

    def init(
        self, params: Params, carry: Carry, xs: PyTree = None, *, key: Key | None = None
    ) -> OnlineState:
        """Returns the state before the first step, when no weight has influenced the carry.

        Args:
            params: the parameters of the step.
            carry: the carry before the first step, with the batch axes of the inputs.
            xs: inputs as `update` takes them, or their shapes and dtypes. With them, the state has
                its final structure at once, as `jax.lax.scan` needs it. Without them, the first
                update adds the influence.
            key: for an algorithm that draws random numbers.
        """
        check.require_callable("step", self.step, takes=3)
        check.require_arrays(params=params, carry=carry)
        self._require_own_key("key", key)
        carry = tree.to_arrays("carry", carry)
        if xs is None:
            return OnlineState(carry, None, key)
        check.require_hashable("step", self.step)
        return OnlineState(carry, _init(self, params, carry, xs), key)

    def update(
        self,
        params: Params,
        state: OnlineState,
        xs: PyTree,
        *,
        mask: Array | None = None,
        reset: Array | None = None,
        reset_carry: Carry | None = None,
        fill_value: float = 0.0,
    ) -> Update:
        """Runs the steps of `xs`, and returns the gradient of the mean of their losses.

        Args:
            params: the parameters of the step. They may change from call to call; the influence of
                past steps remains that of the parameters of those steps.
            state: from `init` or from the last call.
            xs: the inputs of the step, `(T, *batch, ...)`, for any T.
            mask: `(T, *batch)`, bool. Where it is False the step does not run: the state is held,
                and the loss is zero and does not count in the mean. What xs holds there has no
                effect.
            reset: `(T, *batch)`, bool. Where it is True the carry is replaced by `reset_carry`
                before the step, and the influence by zero.
            reset_carry: with the shapes of the carry. It defaults to the zero state of a Cell or a
                Network. It has no gradient.
            fill_value: the number that replaces masked inputs, from which the step must compute
                finite numbers; masked integers become 0.

        Returns:
            `(grads, state, losses)`: the gradient with respect to `params`, the state after the
            last step, and the losses `(T, *batch)`. The mean is over all losses that count, at
            least 1. The gradient reaches through all past steps, also those of earlier calls.

        Raises:
            TypeError, ValueError: while tracing, if the output of the step is no loss, or an
                argument does not fit; the message names it.

        Gradient: `jax.grad` of what `rtrl` returns is exact. That of `uoro` is unbiased. `snap` and
        `eprop` drop paths at each order, so their gradients have no exact second derivative.
        """
        check.require_hashable("step", self.step)
        check.require_instance("state", state, OnlineState)
        self._require_own_key("state.key", state.key)
        check.require_arrays(params=params, state=state, xs=xs, mask=mask, reset=reset)
        check.require_arrays(reset_carry=reset_carry)
        fill_value = check.require_finite("fill_value", fill_value)
        return _update(self, fill_value, _Call(params, state, xs, mask, reset, reset_carry))

    def _require_own_key(self, name: str, key: Key | None) -> None:
        """Raises an error unless there is a key exactly if the learner draws random numbers."""
        if self.needs_key:
            check.require_key(name, key)
        else:
            expected = f"None, since {name_of(self)} draws no random numbers"
            check.require(key is None, name, "a key", expected)


class _Call(NamedTuple):
    """The arguments of one call of `update`.

    Fields:
        params: the parameters.
        state: the state before the first step.
        xs: the inputs of all steps.
        mask: where the step runs; None if everywhere.
        reset: where a sequence begins; None if nowhere.
        reset_carry: the carry at a reset; None for the zero state.
    """

    params: Params
    state: OnlineState
    xs: PyTree
    mask: Array | None
    reset: Array | None
    reset_carry: Carry | None


class _Problem(NamedTuple):
    """A learner's step for arguments of certain shapes.

    Fields:
        row: the step of one row.
        influence: what the learner keeps.
        zeros: the influence of no step.
    """

    row: RowStep
    influence: Influence
    zeros: PyTree


def _problem(learner: Learner, params: Params, carry: Carry, xs: PyTree) -> _Problem:
    check.num_steps(xs)
    x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), xs)
    row = RowStep(learner.step, params, carry, x, is_cut=learner.is_cut)
    influence = learner.influence(row, row.abstract_arguments(params))
    return _Problem(row, influence, row.split_batch(influence.zeros(row.num_rows)))


@functools.partial(jax.jit, static_argnums=0)
def _init(learner: Learner, params: Params, carry: Carry, xs: PyTree) -> PyTree:
    return _problem(learner, params, carry, xs).zeros


@functools.partial(jax.jit, static_argnums=(0, 1))
def _update(learner: Learner, fill_value: float, call: _Call) -> Update:
    row, influence, zeros = _problem(learner, call.params, call.state.carry, call.xs)
    wanted = (check.num_steps(call.xs), *row.batch)
    for name, marks in (("mask", call.mask), ("reset", call.reset)):
        if marks is not None:
            check.require_bool_array(name, marks)
            expected = f"{[*wanted]}, the axes of the losses"
            check.require(marks.shape == wanted, name, marks, expected)
    if call.state.influence is None:
        call = call._replace(state=call.state._replace(influence=zeros))
    why = f", that of {name_of(learner)} for these params, carry and inputs"
    check.require_same_tree("state.influence", call.state.influence, zeros, why)
    call = call._replace(reset_carry=_checked_reset_carry(learner.step, row, call))
    if call.mask is not None:
        call = call._replace(xs=tree.fill_unmasked(call.mask, call.xs, fill_value))
    return _run(row, influence, call)


def _checked_reset_carry(step: Step, row: RowStep, call: _Call) -> Carry:
    """Returns the carry that replaces another at a reset; raises an error unless it fits.

    Without resets it is any carry, since nothing reads it.
    """
    reset_carry = call.reset_carry
    if call.reset is None:
        check.require(reset_carry is None, "reset_carry", "a carry and no reset", "both")
        return call.state.carry
    if reset_carry is None:
        initial_carry: Any = getattr(step, "initial_carry", None)
        expected = "a carry, since a plain Step has no zero state"
        check.require(initial_carry is not None, "reset_carry", None, expected)
        reset_carry = initial_carry(row.batch, check.float_dtype(call.params))
    check.require_same_tree("reset_carry", reset_carry, call.state.carry, ", as the carry")
    return reset_carry


class _RowState(NamedTuple):
    """The state of all rows, which a mask holds and a reset replaces.

    Fields:
        v: the numbers of the carry, `(B, N)`.
        others: the arrays of the carry without a gradient.
        influence: S_t.
    """

    v: jax.Array
    others: Leaves
    influence: PyTree


class _Steps(NamedTuple):
    """What changes from step to step.

    Fields:
        rows: the state of all rows.
        key: the key for the next steps; None if the learner draws no random numbers.
        gradient: the sum of the gradients so far, for each weight array.
    """

    rows: _RowState
    key: Key | None
    gradient: Weights


def _run(row: RowStep, influence: Influence, call: _Call) -> Update:
    """Runs all steps. In each,

    ∂ℓ_t/∂w = ∂ℓ_t/∂w at v_{t-1} held + (∂ℓ_t/∂v_{t-1}) S_{t-1}                              (L1)

    and then S_t from S_{t-1}. The gradient of the weights becomes that of the params at the end.
    """
    inexact, others_of_params = tree.split_inexact(call.params)

    def prepare(inexact: Params) -> tuple[Weights, Leaves]:
        return row.prepare(tree.merge_inexact(inexact, others_of_params))

    w, pull_params, constants = jax.vjp(prepare, inexact, has_aux=True)
    xs = row.merge_batch(jax.tree.leaves(call.xs), after=1)
    shape = (check.num_steps(call.xs), row.num_rows)
    runs = jnp.ones(shape, bool) if call.mask is None else jnp.reshape(call.mask, shape)
    resets = jnp.zeros(shape, bool) if call.reset is None else jnp.reshape(call.reset, shape)
    first_v, first_others = row.flatten(call.reset_carry)
    count = jnp.maximum(jnp.sum(runs), 1).astype(row.dtype)

    def advance(
        state: _Steps, inputs: tuple[Leaves, jax.Array, jax.Array]
    ) -> tuple[_Steps, jax.Array]:
        x, runs, resets = inputs
        v, others, kept = state.rows
        # The marks have values for each row and step. Without a mask or resets, nothing is chosen.
        if call.reset is not None:
            v, others = tree.where(resets, (first_v, first_others), (v, others))
            kept = tree.zero_unmasked(~resets, kept)
        key = None
        key_t = None
        if state.key is not None:
            key, key_t = jax.random.split(state.key)

        def mean_loss(w: Weights, v: jax.Array) -> tuple[jax.Array, Any]:
            arguments = Arguments(w, constants, v, others, x)
            new_v, losses, new_others = jax.vmap(row, in_axes=(OVER_ROWS,))(arguments)
            losses = jnp.where(runs, losses, 0)
            return jnp.sum(losses.astype(row.dtype)) / count, (new_v, new_others, losses)

        gradients, results = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(w, v)
        d_w, d_v = gradients
        new_v, new_others, losses = results
        past = influence.past_gradient(kept, d_v)
        gradient = [
            total + direct.astype(total.dtype) + indirect  # (L1)
            for total, direct, indirect in zip(state.gradient, d_w, past, strict=True)
        ]
        new_kept = influence.advance(kept, Arguments(w, constants, v, others, x), key_t)
        new = _RowState(new_v, new_others, new_kept)
        if call.mask is not None:
            new = tree.where(runs, new, _RowState(v, others, kept))
        return _Steps(new, key, gradient), losses

    zeros = [jnp.zeros(a.shape, widest(a.dtype, row.dtype)) for a in w]
    rows = _RowState(*row.flatten(call.state.carry), row.merge_batch(call.state.influence))
    first = _Steps(rows, call.state.key, zeros)
    last, losses = jax.lax.scan(advance, first, (xs, runs, resets))
    (grads,) = pull_params(tree.cast_like(last.gradient, w))
    carry = row.unflatten(last.rows.v, last.rows.others)
    new_state = OnlineState(carry, row.split_batch(last.rows.influence), last.key)
    return grads, new_state, row.split_batch(losses, after=1)
