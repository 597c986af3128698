"""`masked` and `resettable` as steps of their own, and their certificates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DerivedBackward, assert_interchangeable
from reference import distance

import jaxrnn
from jaxrnn.transforms import MaskedInputs, ResetInputs, ResetParams, masked, resettable

T, B, I, H = 6, 3, 2, 4


def problem(cell):
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape), params)
    carry = jax.tree.map(
        lambda c: jnp.asarray(rng.standard_normal(c.shape)), cell.initial_carry((B,))
    )
    xs = jnp.asarray(rng.standard_normal((T, B, I)))
    mask, reset = (jnp.asarray(rng.random((T, B)) < chance) for chance in (0.6, 0.3))
    return params, carry, xs, mask, reset


def both(cell):
    """The cell with masks and learned resets, and arguments."""
    params, carry, xs, mask, reset = problem(cell)
    start = jax.tree.map(jnp.cos, carry)
    step = resettable(masked(cell), learned=True)
    return step, ResetParams(params, start), carry, ResetInputs(MaskedInputs(xs, mask), reset)


@pytest.mark.parametrize(
    "loop_name", ["bptt", pytest.param("truncated:4", marks=pytest.mark.thorough)]
)
def test_a_cell_with_masks_and_resets_has_a_certificate(loop_name):
    certificate = jaxrnn.certify(*both(jaxrnn.lstm(H)), loop=dict(jaxrnn.LOOPS)[loop_name])
    assert certificate.ok, str(certificate)
    arrays = {row.array for row in certificate.rows}
    assert {
        "params.reset_carry.h",
        "params.reset_carry.c",
        "params.params['w_h']",
        "xs.xs.xs",
    } < arrays
    if loop_name == "bptt":
        assert {row.backward for row in certificate.rows} == {"handwritten"}


@pytest.mark.parametrize("transform", [masked, resettable])
def test_a_cell_without_an_adjoint_stays_one(transform):
    cell = jaxrnn.gru(H)
    assert transform(cell).has_handwritten_backward
    assert not transform(DerivedBackward(cell)).has_handwritten_backward


def test_steps_can_be_streamed():
    step, params, carry, xs = both(jaxrnn.lstm(H))
    last, ys = jaxrnn.bptt(step, params, carry, xs)
    for t in range(T):
        carry, y = step(params, carry, jax.tree.map(lambda x, t=t: x[t], xs))
        assert distance(y, ys[t]) < 1e-13
    assert distance(carry, last) < 1e-13


def test_nan_where_the_mask_is_false_reaches_nothing():
    cell = jaxrnn.gru(H)
    params, carry, xs, mask, _ = problem(cell)

    def result(step, padding):
        def value(params, xs, carry):
            return jnp.sum(jaxrnn.bptt(masked(step), params, carry, MaskedInputs(xs, mask))[0] ** 2)

        padded = jnp.where(mask[..., None], xs, padding)
        return jax.value_and_grad(value, argnums=(0, 1, 2))(params, padded, carry)

    for step in (cell, lambda params, carry, x: cell(params, carry, x)):
        assert distance(result(step, jnp.nan), result(step, 0.0)) < 1e-13


def test_equal_cells_give_equal_cells():
    assert_interchangeable(masked(jaxrnn.gru(3)), masked(jaxrnn.gru(3)))
    assert masked(jaxrnn.gru(3)) != masked(jaxrnn.gru(3), fill_value=1.0)
    assert_interchangeable(resettable(jaxrnn.gru(3)), resettable(jaxrnn.gru(3)))
    assert resettable(jaxrnn.gru(3)) != resettable(jaxrnn.gru(3), learned=True)


def test_without_learned_no_gradient_is_kept_for_the_start():
    cell = jaxrnn.gru(H)
    params, carry, xs, _, reset = problem(cell)

    def kept(learned):
        step = resettable(cell, learned=learned)
        run = jax.grad(lambda p: jnp.sum(jaxrnn.bptt(step, p, carry, ResetInputs(xs, reset))[1]))
        return str(jax.make_jaxpr(run)(ResetParams(params, carry)))

    count = {learned: kept(learned).count(f"f64[{T},{B},{H}]") for learned in (True, False)}
    assert count[False] < count[True]


@pytest.mark.parametrize("form", ["cell", "plain"])
def test_a_start_without_batch_axes_is_that_of_all_rows(form):
    """As a resettable cell's `init` makes it; its gradient is the sum over rows."""
    rng, cell = np.random.default_rng(0), jaxrnn.lstm(4)
    step = cell if form == "cell" else lambda params, carry, x: cell(params, carry, x)
    with_resets = resettable(step, learned=True)
    params = resettable(cell, learned=True).init(jax.random.key(0), 2, jnp.float64)
    assert jax.tree.map(jnp.shape, params.reset_carry) == ((4,), (4,))
    params = params._replace(reset_carry=jax.tree.map(lambda c: c + 0.3, params.reset_carry))
    xs = ResetInputs(
        jnp.asarray(rng.standard_normal((5, 3, 2))), jnp.asarray(rng.random((5, 3)) < 0.5)
    )

    def gradient(repeated):
        def value(params):
            if repeated:
                rows = jax.tree.map(lambda c: jnp.broadcast_to(c, (3, 4)), params.reset_carry)
                params = params._replace(reset_carry=rows)
            _, ys = jaxrnn.bptt(with_resets, params, cell.initial_carry((3,), jnp.float64), xs)
            return jnp.sum(jnp.sin(ys))

        return jax.grad(value)(params)

    assert distance(gradient(False), gradient(True)) < 1e-12
