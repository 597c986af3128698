"""How cells start, how they are made, that they are steps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from reference import scans

import jaxrnn

CELLS = dict(jaxrnn.CELLS)
every_cell = pytest.mark.parametrize("cell_name", CELLS)


def cells_with(name):
    """All cells that have a parameter of that name."""

    def has(make):
        return name in jax.eval_shape(lambda: make(2).init(jax.random.key(0), 2))

    return pytest.mark.parametrize("cell_name", [c for c, make in CELLS.items() if has(make)])


@every_cell
def test_equal_arguments_give_equal_cells(cell_name):
    make = CELLS[cell_name]
    assert_interchangeable(make(5), make(hidden_size=5))
    assert make(5) != make(6)


def test_options_make_other_cells():
    assert jaxrnn.gru(5) != jaxrnn.gru(5, reset_after=False)
    assert jaxrnn.lstm(5) != jaxrnn.lstm(5, forget_bias=0.0)
    assert_interchangeable(jaxrnn.lstm(5), jaxrnn.lstm(5, forget_bias=1.0))
    assert jaxrnn.elman(5) != jaxrnn.elman(5, activation=jax.nn.relu)
    assert jaxrnn.projected_lstm(5, 2) != jaxrnn.projected_lstm(5, 3)
    assert jaxrnn.layer_norm_gru(5) != jaxrnn.layer_norm_gru(5, epsilon=1e-3)
    assert jaxrnn.indrnn(5) != jaxrnn.indrnn(5, activation=jnp.tanh)
    assert_interchangeable(jaxrnn.lru(5), jaxrnn.lru(5, 5, r_max=1.0))
    assert jaxrnn.lru(5) != jaxrnn.lru(5, r_max=0.9)


every_dtype = pytest.mark.parametrize(
    "dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
)


@every_cell
@every_dtype
def test_parameters_start_finite_and_of_one_dtype(cell_name, dtype):
    params = CELLS[cell_name](6).init(jax.random.key(0), 4, dtype)
    assert {p.dtype for p in params.values()} == {jnp.dtype(dtype)}
    assert all(jnp.all(jnp.isfinite(p)) for p in params.values())


@cells_with("w_h")
@every_dtype
def test_recurrent_kernels_start_orthogonal_gate_by_gate(cell_name, dtype):
    params = CELLS[cell_name](6).init(jax.random.key(0), 4, dtype)
    w_h = np.asarray(params["w_h"], np.float64)
    for gate in np.split(w_h, w_h.shape[1] // 6, axis=1):
        atol = 20 * float(jnp.finfo(dtype).eps)
        # The state that a kernel multiplies may have fewer features than a gate.
        gram = gate.T @ gate if len(gate) == 6 else gate @ gate.T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=atol)


@cells_with("w_h")
def test_gates_start_apart(cell_name):
    w_h = np.asarray(CELLS[cell_name](6).init(jax.random.key(0), 4, jnp.float64)["w_h"])
    gates = np.split(w_h, w_h.shape[1] // 6, axis=1)
    pairs = itertools.combinations(gates, 2)
    assert all(np.abs(one - other).max() > 0.1 for one, other in pairs)


@cells_with("w_x")
def test_input_kernels_start_lecun_normal(cell_name):
    w_x = np.asarray(CELLS[cell_name](40).init(jax.random.key(0), 400, jnp.float64)["w_x"])
    assert abs(w_x.std() * 20 - 1) < 0.03
    assert abs(w_x.mean()) < 0.003


@pytest.mark.parametrize(
    "make",
    [
        jaxrnn.lstm,
        functools.partial(jaxrnn.projected_lstm, projection_size=2),
        jaxrnn.peephole_lstm,
        jaxrnn.layer_norm_lstm,
    ],
)
def test_forget_bias_lies_in_the_parameter(make):
    b = np.asarray(make(3, forget_bias=2.5).init(jax.random.key(0), 4, jnp.float64)["b"])
    assert b.tolist() == [0.0] * 3 + [2.5] * 3 + [0.0] * 6


@every_cell
def test_a_cell_can_be_jitted_and_is_a_step(cell_name):
    cell = CELLS[cell_name](5)
    params, carry = (
        cell.init(jax.random.key(0), 4, jnp.float64),
        cell.initial_carry((2,), jnp.float64),
    )
    x = jnp.ones((2, 4))
    new, y = jax.jit(cell)(params, carry, x)
    assert jax.tree.structure(new) == jax.tree.structure(carry)
    assert y.shape[:-1] == (2,)
    np.testing.assert_allclose(y, cell.output(params, new))


@every_cell
def test_carries_share_no_buffer(cell_name):
    """Or a donated state would be donated twice."""
    leaves = jax.tree.leaves(CELLS[cell_name](5).initial_carry((2,), jnp.float32))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@every_cell
def test_a_narrow_step_computes_in_float32(cell_name):
    """Its products have narrow factors and wide sums; nothing else in the loop is narrow."""
    cell = CELLS[cell_name](5)
    params, carry = (
        cell.init(jax.random.key(0), 4, jnp.bfloat16),
        cell.initial_carry((3,), jnp.bfloat16),
    )

    def value(params, xs):
        return jnp.sum(jaxrnn.bptt(cell, params, carry, xs)[1].astype(jnp.float32))

    jaxpr = jax.make_jaxpr(jax.grad(value))(params, jnp.ones((6, 3, 4), jnp.bfloat16)).jaxpr
    assert len(scans(jaxpr)) == 2
    made = [eqn for loop in scans(jaxpr) for eqn in loop.params["jaxpr"].jaxpr.eqns]
    wide = [eqn for eqn in made if str(eqn.primitive) in ("dot_general", "mul", "tanh", "logistic")]
    assert wide
    assert {eqn.outvars[0].aval.dtype.itemsize >= 4 for eqn in wide} == {True}
    products = [eqn for eqn in wide if str(eqn.primitive) == "dot_general"]
    assert {str(v.aval.dtype) for eqn in products for v in eqn.invars} <= {"bfloat16"}
