"""A carry with two feature axes, of a size that could be taken for a batch axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, inner, noise, scans

import jaxrnn
from jaxrnn import diagnostics, transforms

T, B, H = 5, 3, 4
# As many units as states: all arrays of the carry have the axes (*batch, 4).
CELL = jaxrnn.selective_ssm(H, H)


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = CELL.init(jax.random.key(0), H, jnp.float64)
        params = jax.tree.map(lambda p, n: p + 0.1 * n, params, noise(rng, params))
        carry = noise(rng, CELL.initial_carry((B,), jnp.float64))
        xs = jnp.asarray(rng.standard_normal((T, B, H)))
        mask, reset = (jnp.asarray(rng.random((T, B)) < p) for p in (0.7, 0.3))
    return params, carry, xs, mask, reset


def row(tree, index, axis=0):
    return jax.tree.map(lambda x: jnp.take(x, jnp.array([index]), axis), tree)


def sum_of_squares(cell, params, carry, xs, loop=jaxrnn.bptt, **options):
    last, ys = jaxrnn.unroll(cell, params, xs, carry=carry, loop=loop, **options)
    return jnp.sum(ys**2) + inner(jax.tree.map(jnp.cos, last), last)


@functools.partial(jax.jit, static_argnames=("cell", "loop"))
def gradient(cell, *args, loop=jaxrnn.bptt, **options):
    value = functools.partial(sum_of_squares, cell, loop=loop, **options)
    return jax.value_and_grad(value, argnums=(0, 1, 2))(*args)


def test_masks_and_resets_are_those_of_a_row_alone_and_padding_may_be_nan():
    params, carry, xs, mask, reset = problem()
    xs = jnp.where(mask[..., None], xs, jnp.nan)
    start = jax.tree.map(jnp.sin, carry)
    options = {"mask": mask, "reset": reset, "reset_carry": start}
    got = gradient(CELL, params, carry, xs, **options)
    for b in range(B):
        alone = {"mask": mask[:, [b]], "reset": reset[:, [b]], "reset_carry": row(start, b)}
        _, grads = gradient(CELL, params, row(carry, b), row(xs, b, 1), **alone)
        assert distance((row(got[1][1], b), row(got[1][2], b, 1)), grads[1:]) < 1e-12


def test_each_row_is_clipped_by_itself():
    params, carry, xs, _, _ = problem()
    cell = transforms.clip_adjoint(CELL, 0.5)
    _, got = gradient(cell, params, carry, xs)
    _, plain = gradient(CELL, params, carry, xs)
    assert distance(got[1].h, plain[1].h) > 0.1
    for b in range(B):
        _, grads = gradient(cell, params, row(carry, b), row(xs, b, 1), loop=jaxrnn.scan)
        assert distance((row(got[1], b), row(got[2], b, 1)), grads[1:]) < 1e-12


def test_a_clipped_row_has_the_limit_as_its_norm():
    params, carry, xs, _, _ = problem()
    cell = transforms.clip_adjoint(CELL, 0.5)
    z = cell.project(params, xs[0])
    residuals = jaxrnn.Residuals(carry, z, carry, ())
    _, (clipped, _) = cell.adjoint(cell.prepare(params), residuals, carry)
    squares = [jnp.sum(d.reshape(B, -1) ** 2, axis=1) for d in clipped]
    np.testing.assert_allclose(jnp.sqrt(sum(squares)), [0.5] * B, rtol=1e-12)


def test_gradient_flow_is_one_norm_for_each_row():
    params, carry, xs, _, _ = problem()

    def loss(params, xs, loop):
        return jnp.sum(jaxrnn.unroll(CELL, params, xs, carry=carry, loop=loop)[1] ** 2)

    (norms,) = diagnostics.gradient_flow(loss, params, xs).norms
    assert norms.shape == (T, B)

    def of_last(last):
        return jnp.sum(CELL.output(params, last) ** 2)

    last, _ = jaxrnn.unroll(CELL, params, xs, carry=carry)
    squares = [
        jnp.sum(d.reshape(B, -1) ** 2, axis=1) for d in jax.tree.leaves(jax.grad(of_last)(last))
    ]
    assert distance(norms[-1], jnp.sqrt(sum(squares))) < 1e-13


def test_a_spectrum_has_all_numbers_of_a_row():
    params, carry, xs, _, _ = problem()
    spectrum = diagnostics.jacobian_spectrum(CELL, params, carry, xs)
    size = H * H + 2 * H
    assert spectrum.size == size
    assert spectrum.steps.shape == (T, B, size)
    # ∂h_t/∂h_{t-1} is diagonal; what is replaced adds zeros.
    decay, _ = CELL.affine(CELL.prepare(params), CELL.project(params, xs))
    wanted = -jnp.sort(-decay.h.reshape(T, B, -1), axis=-1)
    assert distance(spectrum.steps[..., : H * H], wanted) < 1e-12


def test_a_number_that_is_not_finite_is_found_in_its_row():
    params, carry, xs, _, _ = problem()

    def loss(params, xs, loop):
        return jnp.sum(jaxrnn.unroll(CELL, params, xs, carry=carry, loop=loop)[1])

    large = {**params, "w_b": params["w_b"] * 1e300}
    found = diagnostics.locate_nonfinite(loss, large, xs.at[2, 1].multiply(1e20))
    assert (found.phase, found.step, found.position) == ("forward", 2, (1,))
    assert found.quantity.startswith("projections")


def test_what_is_detached_is_detached_in_whole_rows():
    params, carry, xs, _, _ = problem()
    cell = transforms.detach_adjoint(CELL, 0.5)

    def last_h(carry):
        last, _ = jaxrnn.unroll(cell, params, xs[:1], carry=carry, key=jax.random.key(0))
        return jnp.sum(last.h)

    passed = np.asarray(jax.grad(last_h)(carry).h != 0).reshape(B, -1)
    assert (passed == passed[:, :1]).all()
    assert {*passed[:, 0]} == {True, False}


@pytest.mark.parametrize("kind", ["zoneout", "recurrent_dropout"])
def test_noise_is_the_same_under_every_loop(kind):
    params, carry, xs, mask, _ = problem()
    cell = getattr(transforms, kind)(CELL, 0.3)
    options = {"key": jax.random.key(1), "mask": mask}
    got = gradient(cell, params, carry, xs, **options)
    assert distance(got, gradient(cell, params, carry, xs, loop=jaxrnn.scan, **options)) < 1e-12


def test_recurrent_dropout_scales_what_enters_the_state_and_nothing_else():
    """One step from rest: h is Δ u B, dropped for whole units; C and u are kept."""
    params, carry, xs, _, _ = problem()
    cell, rest = transforms.recurrent_dropout(CELL, 0.5), jax.tree.map(jnp.zeros_like, carry)
    plain, _ = jaxrnn.unroll(CELL, params, xs[:1], carry=rest)
    dropped, _ = jaxrnn.unroll(cell, params, xs[:1], carry=rest, key=jax.random.key(0))
    assert distance((dropped.c, dropped.u), (plain.c, plain.u)) == 0
    ratio = np.asarray(dropped.h / plain.h)
    assert {*np.round(ratio, 12).ravel()} == {0.0, 2.0}
    assert (ratio == ratio[..., :1]).all()


def test_a_carry_larger_than_its_inputs_is_run_in_chunks():
    """T = 1024 with 4096 numbers a step, from inputs of 64: 16 MiB and not 1.3."""
    cell = jaxrnn.selective_ssm(64, 64)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 64))
    carry = jax.eval_shape(lambda: cell.initial_carry((1,)))
    xs = jax.ShapeDtypeStruct((1024, 1, 64), jnp.float32)
    jaxpr = jax.make_jaxpr(functools.partial(jaxrnn.bptt, cell))(params, carry, xs).jaxpr
    lengths = [eqn.params["length"] for eqn in scans(jaxpr)]
    assert len(lengths) == 2
    assert lengths[0] * lengths[1] == 1024
    assert min(lengths) > 1
