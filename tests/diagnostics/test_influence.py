"""The influence of one parameter, and the error of online algorithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from reference import distance, noise

import jaxrnn
from jaxrnn import diagnostics, online
from jaxrnn.diagnostics import plots
from jaxrnn.transforms import StepLossInputs, step_loss

CELLS = dict(jaxrnn.CELLS)


def problem(cell_name, length=5):
    cell, rng = CELLS[cell_name](3), np.random.default_rng(0)
    params = cell.init(jax.random.key(0), 2, jnp.float64)
    carry = noise(rng, cell.initial_carry((2,), jnp.float64))
    return cell, params, carry, jnp.asarray(rng.normal(size=(length, 2, 2)))


@pytest.mark.parametrize(
    ("cell_name", "name", "index"), [("elman", "w_h", (1, 2)), ("lstm", "b", (4,))]
)
def test_the_influence_is_the_derivative_and_its_terms_add_up_to_it(cell_name, name, index):
    cell, params, carry, xs = problem(cell_name)
    found = diagnostics.parameter_influence(cell, params, carry, xs, name=name, index=index)

    def carries(w):
        moved = params | {name: params[name].at[index].set(w)}
        return jaxrnn.history(cell, moved, xs, carry=carry, loop=jaxrnn.scan)[0].carries

    w = params[name][index]
    wanted = jax.jvp(carries, (w,), (jnp.ones_like(w),))[1]
    assert distance(found.total, wanted) < 1e-12
    assert distance(jax.tree.map(lambda a: a.sum(1), found.terms), found.total) < 1e-12


def test_a_term_is_a_product_of_jacobians():
    """terms[t, i] = J_t ... J_{i+1} ∂f_i/∂w, by explicit matrices."""
    cell, params, carry, xs = problem("elman")
    carry, xs = carry[0], xs[:, 0]
    found = diagnostics.parameter_influence(cell, params, carry, xs, name="w_h", index=(1, 2))
    before, jacobians = carry, []
    for t in range(5):
        jacobians.append(jax.jacobian(lambda c, t=t: cell(params, c, xs[t])[0])(before))
        if t == 1:
            one = {"w_h": jnp.zeros((3, 3)).at[1, 2].set(1)}
            direction = jax.tree.map(jnp.zeros_like, params) | one
            direct = jax.jvp(lambda p, c=before: cell(p, c, xs[1])[0], (params,), (direction,))[1]
        before = cell(params, before, xs[t])[0]
    np.testing.assert_allclose(
        found.terms[4, 1], jacobians[4] @ jacobians[3] @ jacobians[2] @ direct, rtol=1e-10
    )
    assert (found.terms[1, 2] == 0).all()


def test_no_step_has_no_influence():
    cell, params, carry, xs = problem("elman", length=0)
    found = diagnostics.parameter_influence(cell, params, carry, xs, name="b", index=(0,))
    assert found.total.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("w_q", (0, 0), r"name: got 'w_q', expected one of \['b', 'w_h', 'w_x'\]"),
        ("w_h", (0,), r"index: got \(0,\), expected a position in w_h, float64\[3,3\]"),
        ("w_h", (0, 3), r"index: got \(0, 3\)"),
    ],
)
def test_a_parameter_that_is_not_there(name, index, message):
    cell, params, carry, xs = problem("elman")
    with pytest.raises(ValueError, match=message):
        diagnostics.parameter_influence(cell, params, carry, xs, name=name, index=index)


def test_errors_of_online_algorithms_and_their_picture():
    cell, params, carry, xs = problem("gru")
    step = step_loss(
        cell,
        jaxrnn.linear(1),
        lambda y, target: (y[..., 0] - target) ** 2,
        target=jax.ShapeDtypeStruct((), jnp.float64),
    )
    both = params, jaxrnn.linear(1).init(jax.random.key(1), 3, jnp.float64)
    inputs = StepLossInputs(xs, jnp.sum(xs, axis=-1))
    learners = {"rtrl": online.rtrl(step), "snap": online.snap(step), "uoro": online.uoro(step)}
    start = carry, jnp.zeros(2)
    errors = diagnostics.online_errors(learners, both, start, inputs, key=jax.random.key(2))
    assert errors["rtrl"].error < 1e-12
    assert 1e-4 < errors["snap"].error < 1
    assert errors["snap"].angle < errors["uoro"].angle < 180
    assert errors["rtrl"].num_bytes == 3 * errors["snap"].num_bytes
    axes = plots.plot_online_errors(Figure().subplots(), errors)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*learners]

    influence = diagnostics.parameter_influence(cell, params, carry, xs, name="b", index=(0,))
    axes = plots.plot_parameter_influence(Figure().subplots(), influence)
    assert axes.get_xlabel() == "step i"
    with pytest.raises(TypeError, match="influence"):
        plots.plot_parameter_influence(Figure().subplots(), errors)
