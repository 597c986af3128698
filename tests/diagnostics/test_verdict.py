"""`verdict`: what numbers it calls by which name; and pictures that can be drawn of them."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import pictures, reach, spectrum, verdict

H = 4


CELL = jaxrnn.elman(H)
spectrum_of = jax.jit(functools.partial(spectrum, CELL))


def found_of(radius):
    """What `spectrum` finds of a tanh cell whose kernel is orthogonal but for a factor."""
    w_h = radius * jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0])
    params = {"w_x": jnp.zeros((1, H)), "w_h": w_h, "b": jnp.zeros(H)}
    return spectrum_of(params, jnp.zeros((2, H)), jnp.zeros((40, 2, 1)))


def test_what_vanishes_explodes_and_is_fine():
    said = verdict(reach(found_of(0.8)))
    assert list(said.findings) == ["vanishing"]
    assert "sees 20 of 40 steps back, 0.8 left each step" in said.findings["vanishing"]
    assert any("forget bias" in line for line in said.advice)
    assert str(said).startswith("vanishing: it sees 20 of 40")
    found = found_of(1.2)
    assert list(verdict(reach(found)).findings) == ["exploding"]
    assert list(verdict(reach(found), found).findings) == ["chaotic", "exploding"]
    assert verdict(reach(found_of(1.0)), found_of(1.0)).advice == ()


def test_what_is_saturated():
    gates = {"saved.f": jnp.array([[0.2, 0.6], [0.3, 0.7]]), "saved.q": jnp.full((2, 2), jnp.nan)}
    said = verdict(reach(found_of(1.0)), gates=gates)
    assert said.findings == {"saturated": "90% of saved.f are near an end of its range"}


@pytest.fixture
def axes():
    figure = Figure()
    yield figure.subplots()
    figure.canvas.draw()


def test_a_flow_map_has_a_row_for_each_layer(axes):
    norms = [jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.full((3, 1), 0.1)]
    assert pictures.draw_flow(axes, norms) is axes
    table = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(table, [[np.log10(np.sqrt(12.5)), np.nan, np.nan], [-1, -1, -1]])


def test_a_flow_map_of_nothing(axes):
    pictures.draw_flow(axes, [jnp.zeros((0, 2))])


def test_curves_carry_their_numbers(axes):
    assert pictures.draw_reach(axes, {"cell": reach(found_of(0.8))}) is axes
    assert axes.get_legend().texts[0].get_text() == "cell: × 0.8 a step, sees 20 back"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.arange(41) * np.log10(0.8), atol=1e-9)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), axes.lines[0].get_ydata(), atol=1e-9)


def test_a_spectrum_says_whether_neighbours_meet(axes):
    pictures.draw_spectrum(axes, found_of(0.8))
    assert axes.get_title().endswith("neighbours meet, -0.223 nats a step")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.full(H, np.log(0.8)))


def test_gates_are_bars_and_what_is_no_gate_is_not(axes):
    gates = {"saved.f": jnp.array([[0.2, 0.6], [0.4, 0.0]]), "saved.q": jnp.full((2, 2), jnp.nan)}
    pictures.draw_saturation(axes, gates)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.3, 0.3])


def test_contributions_are_a_line_for_each_parameter(axes):
    pictures.draw_contributions(
        axes, {"w": jnp.array([[3.0, 4.0], [0.0, 0.1]]), "b": jnp.ones((2, 1))}
    )
    assert [text.get_text() for text in axes.get_legend().texts] == ["b", "w"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), np.log10([5, 0.1]))


def test_the_library_is_imported_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import jaxrnn; jaxrnn.pictures.draw_flow"
    subprocess.run([sys.executable, "-c", code], check=True)
