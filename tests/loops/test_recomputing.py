"""The form of `bptt` that runs on a GPU, exact on a CPU: everything but the loops for all steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DerivedBackward
from reference import distance

import jaxrnn
from jaxrnn import transforms
from jaxrnn.loops import backend
from jaxrnn.loops.linear_adjoint import linear_adjoint
from jaxrnn.loops.scans import UnrolledScan
from jaxrnn.transforms import MaskedInputs, ResetInputs, ResetParams

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, I, H = 11, 3, 2, 4
CELLS = dict(jaxrnn.CELLS)


@pytest.fixture(autouse=True)
def _short_iterations(monkeypatch):
    """Three steps in an iteration of a loop: small programs, and a remainder."""
    few = backend.SETTINGS["gpu"]._replace(scan=UnrolledScan(3))
    monkeypatch.setitem(backend.SETTINGS, "gpu", few)


def on_a_gpu(step, params, carry, xs):
    """`bptt` as it runs on a GPU."""
    with backend.assume("gpu"):
        return jaxrnn.bptt(step, params, carry, xs)


def problem(cell, steps=T, batch=(B,)):
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape), params)

    def drawn(like):
        numbers = rng.standard_normal(like.shape)
        return jnp.asarray(numbers if like.dtype == float else numbers * (1 + 1j), like.dtype)

    carry = jax.tree.map(drawn, cell.initial_carry(batch, jnp.float64))
    return params, carry, jnp.asarray(rng.standard_normal((steps, *batch, *cell.feature_shape(I))))


def result(loop, step, *args):
    def loss(*args):
        last, ys = loop(step, *args)
        leaves = jax.tree.leaves((last, ys))
        weights = [jnp.cos(jnp.arange(x.size, dtype=float)).reshape(x.shape) for x in leaves]
        return sum(jnp.sum(w * jnp.real(x * x)) for w, x in zip(weights, leaves, strict=True))

    inexact, others = jaxrnn.tree.split_inexact(args)
    with backend.assume("gpu"):  # also where only the backward pass is traced
        return jax.jit(
            jax.value_and_grad(lambda inexact: loss(*jaxrnn.tree.merge_inexact(inexact, others)))
        )(inexact)


def assert_exact(step, *args):
    got, wanted = (result(loop, step, *args) for loop in (on_a_gpu, jaxrnn.scan))
    assert distance(got[0], wanted[0]) < VALUES
    assert distance(got[1], wanted[1]) < GRADIENTS


# Which compute as others do in this form: a matrix for carry, and none of w's gradients, are new.
LEFT_OUT = ("slstm", "delta_rule", "conv_lstm", "cornn", "cfc", "rg_lru", "s5")
LENGTHS = [
    *(
        pytest.param(name, T, marks=pytest.mark.thorough if name in LEFT_OUT else [])
        for name in CELLS
    ),
    *((name, steps) for name in ("lstm", "lru") for steps in (0, 1, 12)),
]


@pytest.mark.parametrize(("cell_name", "steps"), LENGTHS)
def test_values_and_gradient_equal_autodiff(cell_name, steps):
    """Lengths that are a multiple of the unrolled steps, and others."""
    cell = CELLS[cell_name](H)
    assert_exact(cell, *problem(cell, steps))


def transformed(name):
    cell = jaxrnn.lstm(H)
    params, carry, xs = problem(cell)
    rng = np.random.default_rng(1)
    mask, reset = (jnp.asarray(rng.random((T, B)) < chance) for chance in (0.7, 0.3))
    start = jax.tree.map(jnp.cos, carry)
    if name == "masks and resets":
        step = transforms.resettable(transforms.masked(cell), learned=True)
        xs = xs.at[1].set(jnp.where(mask[1][:, None], xs[1], jnp.nan))
        return step, ResetParams(params, start), carry, ResetInputs(MaskedInputs(xs, mask), reset)
    if name == "noise":
        step = transforms.variational_dropout(cell, input_rate=0.3, state_rate=0.3)
        step = transforms.zoneout(transforms.recurrent_dropout(step, 0.3), 0.2)
        step = transforms.detach_adjoint(step, 0.3)
        params, xs = transforms.noise.add_noise(step, jax.random.key(3), params, carry, xs)
        return step, params, carry, xs
    if name == "clipped":
        return transforms.clip_adjoint(cell, 0.5), params, carry, xs
    step = transforms.probe_adjoint(cell)
    return step, params, carry, transforms.ProbeInputs(xs, jnp.zeros((T, B)))


@pytest.mark.parametrize("name", ["masks and resets", "noise", "clipped", "probed"])
def test_transformed_cells_keep_their_gradient(name):
    """Beside the form that saves; autodiff knows nothing of a probe."""
    step, *args = transformed(name)
    got = result(on_a_gpu, step, *args)

    def saving(*args):
        with backend.assume("cpu"):
            return jaxrnn.bptt(*args)

    wanted = result(saving, step, *args)
    assert distance(got, wanted) < GRADIENTS


def test_a_loss_inside_the_loop_keeps_integer_carries():
    step = transforms.step_loss(jaxrnn.gru(H), jaxrnn.linear(5), lambda ys, y: ys[..., 0] * y)
    cell = jaxrnn.gru(H)
    params, carry, xs = problem(cell)
    readout = jaxrnn.linear(5).init(jax.random.key(1), H, jnp.float64)
    targets = jnp.ones((T, B), jnp.int32)
    args = (params, readout), (carry, targets[0]), transforms.StepLossInputs(xs, targets)
    with jax.numpy_dtype_promotion("standard"):
        assert_exact(step, *args)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_batch_axes(batch):
    cell = jaxrnn.gru(H)
    assert_exact(cell, *problem(cell, batch=batch))


def test_under_vmap_and_twice_differentiated():
    cell = jaxrnn.gru(H)
    params, carry, xs = problem(cell)

    def loss(loop, params, carry, x):
        return jnp.sum(loop(cell, params, carry, x[:, None])[1] ** 3)

    def hessian_product(loop, x, carry):
        grad = jax.grad(functools.partial(loss, loop))
        return jax.grad(lambda p: sum(jnp.sum(g**2) for g in grad(p, carry, x).values()))(params)

    with backend.assume("gpu"):
        got, wanted = (
            jax.vmap(functools.partial(hessian_product, loop), in_axes=(1, 0))(xs, carry[:, None])
            for loop in (jaxrnn.bptt, jaxrnn.scan)
        )
    assert distance(got, wanted) < 1e-11


def test_a_long_sequence_is_run_in_chunks(monkeypatch):
    small = backend.SETTINGS["gpu"]._replace(whole_bytes=100, chunk_bytes=100, chunk_steps=4)
    monkeypatch.setitem(backend.SETTINGS, "gpu", small)
    cell = jaxrnn.lstm(H)
    assert_exact(cell, *problem(cell, 24))


def test_a_cell_without_a_backward_pass_of_its_own():
    cell = DerivedBackward(jaxrnn.gru(H))
    assert_exact(cell, *problem(cell))


def taken_apart(cell):
    params, carry, xs = problem(cell)
    w, zs = cell.prepare(params), cell.project(params, xs)
    carries = jax.tree.map(lambda c: jnp.broadcast_to(c, (T, *c.shape)), carry)
    _, saved = jax.vmap(cell.advance, in_axes=(None, 0, 0))(w, carries, zs)
    residuals = jaxrnn.Residuals(carries, zs, carries, saved)
    first = jax.tree.map(lambda x: x[0], residuals)
    return linear_adjoint(cell, w, first, carry), w, residuals, carry


@pytest.mark.parametrize(("cell_name", "count"), [("elman", 1), ("gru", 4), ("lstm", 6)])
def test_a_step_reads_few_coefficients(cell_name, count):
    """Of the GRU c_r, c_z, c_q and z; of the LSTM those of four gates, of h in c, and f."""
    linear, w, residuals, d_carry = taken_apart(CELLS[cell_name](H))
    coefficients = linear.coefficients(w, residuals)
    assert [c.shape for c in coefficients] == [(T, B, H)] * count
    (jaxpr,) = [jax.make_jaxpr(linear.apply)(w, [c[0] for c in coefficients], d_carry).jaxpr]
    names = [eqn.primitive.name for eqn in jaxpr.eqns]
    assert {*names} <= {"mul", "add", "concatenate", "dot_general"}
    assert names.count("dot_general") == 1


def test_an_unknown_platform_is_an_error():
    with (
        pytest.raises(ValueError, match="platform: got 'npu', expected one of 'cpu', 'gpu', 'tpu'"),
        backend.assume("npu"),
    ):
        pass


def test_the_default_is_that_of_the_device():
    assert backend.settings() == backend.SETTINGS[jax.default_backend()]
