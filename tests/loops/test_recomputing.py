"""The form of `bptt` that runs on a GPU, exact on a CPU: everything but the loops for all steps."""

import functools

import jax
import jax.numpy as jnp
import pytest
from helpers import DerivedBackward
from loop_problems import B, H, T, problem, result, transformed
from reference import distance

import jaxrnn
from jaxrnn import transforms
from jaxrnn.loops import backend
from jaxrnn.loops.linear_adjoint import linear_adjoint
from jaxrnn.loops.scans import UnrolledScan

VALUES, GRADIENTS = 1e-13, 1e-12
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


def result_on_a_gpu(loop, step, *args):
    with backend.assume("gpu"):  # also where only the backward pass is traced
        return result(loop, step, *args)


def assert_exact(step, *args):
    got, wanted = (result_on_a_gpu(loop, step, *args) for loop in (on_a_gpu, jaxrnn.scan))
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


@pytest.mark.parametrize("name", ["masks and resets", "noise", "clipped", "probed"])
def test_transformed_cells_keep_their_gradient(name):
    """Beside the form that saves; autodiff knows nothing of a probe."""
    step, *args = transformed(name)
    got = result_on_a_gpu(on_a_gpu, step, *args)

    def saving(*args):
        with backend.assume("cpu"):
            return jaxrnn.bptt(*args)

    wanted = result_on_a_gpu(saving, step, *args)
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
