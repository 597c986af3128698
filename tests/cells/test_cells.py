"""How cells start, how they are made, that they are steps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from reference import cells_and_dtypes, scans

import jaxrnn

CELLS = dict(jaxrnn.CELLS)
every_cell = pytest.mark.parametrize("cell_name", CELLS)


def names_with(name, but=()):
    """The cells that have a parameter of that name."""

    def has(make):
        return name in jax.eval_shape(lambda: make(2).init(jax.random.key(0), 2))

    return [c for c, make in CELLS.items() if has(make) and c not in but]


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


def every_dtype_of(cells):
    dtypes = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
    return pytest.mark.parametrize(
        ("cell_name", "dtype"), cells_and_dtypes(cells, dtypes, jnp.float16)
    )


# A kernel by heads has a test of its own, and a reservoir is scaled in another way.
ORTHOGONAL = names_with("w_h", but=("slstm", "echo_state"))


@every_dtype_of(CELLS)
def test_parameters_start_finite_and_of_one_dtype(cell_name, dtype):
    params = CELLS[cell_name](6).init(jax.random.key(0), 4, dtype)
    assert {p.dtype for p in params.values()} == {jnp.dtype(dtype)}
    assert all(jnp.all(jnp.isfinite(p)) for p in params.values())


@every_dtype_of(ORTHOGONAL)
def test_recurrent_kernels_start_orthogonal_gate_by_gate(cell_name, dtype):
    params = CELLS[cell_name](6).init(jax.random.key(0), 4, dtype)
    w_h = np.asarray(params["w_h"], np.float64)
    w_h = w_h.reshape(-1, w_h.shape[-1])  # all pixels of a window
    for gate in np.split(w_h, w_h.shape[1] // 6, axis=1):
        atol = 20 * float(jnp.finfo(dtype).eps)
        # The state that a kernel multiplies may have fewer features than a gate.
        gram = gate.T @ gate if len(gate) >= gate.shape[1] else gate @ gate.T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=atol)


@pytest.mark.parametrize("cell_name", ORTHOGONAL)
def test_gates_start_apart(cell_name):
    w_h = np.asarray(CELLS[cell_name](6).init(jax.random.key(0), 4, jnp.float64)["w_h"])
    gates = np.split(w_h, max(1, w_h.shape[-1] // 6), axis=-1)
    pairs = itertools.combinations(gates, 2)
    assert all(np.abs(one - other).max() > 0.1 for one, other in pairs)


@pytest.mark.parametrize("cell_name", names_with("w_x", but=("echo_state",)))
def test_input_kernels_start_lecun_normal(cell_name):
    w_x = np.asarray(CELLS[cell_name](40).init(jax.random.key(0), 400, jnp.float64)["w_x"])
    fan_in = w_x.size / w_x.shape[-1]
    assert abs(w_x.std() * np.sqrt(fan_in) - 1) < 0.03
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
    x = jnp.ones((2, *cell.feature_shape(4)))
    new, y = jax.jit(cell)(params, carry, x)
    assert jax.tree.structure(new) == jax.tree.structure(carry)
    assert y.shape[: -cell.num_feature_axes] == (2,)
    np.testing.assert_allclose(y, cell.output(params, new))


@every_cell
def test_carries_share_no_buffer(cell_name):
    """Or a donated state would be donated twice."""
    leaves = jax.tree.leaves(CELLS[cell_name](5).initial_carry((2,), jnp.float32))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


# A loop of these reads no weights or has no gradient of them; a convolution has wide factors, which
# were narrow.
OTHER_PRODUCTS = ("mlstm", "delta_rule", "echo_state", "conv_lstm")


@pytest.mark.parametrize("cell_name", [name for name in CELLS if name not in OTHER_PRODUCTS])
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
