"""`diagnose`: what numbers it calls by which name; and pictures that can be drawn of them."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn.diagnostics import diagnose, jacobian_spectrum, memory_horizon, plots

H = 4


CELL = jaxrnn.elman(H)
spectrum_of = jax.jit(functools.partial(jacobian_spectrum, CELL))


def found_of(radius):
    """What `jacobian_spectrum` finds of a tanh cell whose kernel is orthogonal but for a factor."""
    w_h = radius * jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0])
    params = {"w_x": jnp.zeros((1, H)), "w_h": w_h, "b": jnp.zeros(H)}
    return spectrum_of(params, jnp.zeros((2, H)), jnp.zeros((40, 2, 1)))


def horizon_of(*curves):
    """The `MemoryHorizon` of rows whose norms are told, lag by lag."""
    norms = jnp.asarray(curves).T[..., None]
    return memory_horizon(jaxrnn.diagnostics.JacobianSpectrum(None, None, norms, 1))


def falling(rate, steps=64):
    return rate ** np.arange(steps + 1.0)


def bump(peak, end, steps=64):
    """Grows to `peak` in 4 steps, from there falls to `end`."""
    return np.interp(np.arange(steps + 1.0), [0, 4, steps], np.log([1, peak, end]))


SENTENCES = {
    "of a good model": (
        [falling(0.9299)],
        "fine: it sees 63 of 64 steps back, 0.93 left each step; that is more than half of the "
        "sequence, and 0.955% of a gradient is left at its far end",
    ),
    "all": (
        [falling(0.97)],
        "fine: it sees all 64 steps back, 0.97 left each step; that is all of the sequence, and "
        "14.2% of a gradient is left at its far end",
    ),
    "on the threshold at the end": (
        [np.linspace(1, 0.01, 11)],
        "fine: it sees all 10 steps back, 0.711 left each step; that is all of the sequence, and "
        "1% of a gradient is left at its far end",
    ),
    "a little more than half": (
        [falling(0.807, 40)],
        "fine: it sees 21 of 40 steps back, 0.807 left each step; that is more than half of the "
        "sequence, and 0.0188% of a gradient is left at its far end",
    ),
    "half": (
        [falling(0.8, 40)],
        "vanishing: it sees 20 of 40 steps back, 0.8 left each step; that is at most half of the "
        "sequence, and 0.0133% of a gradient is left at its far end",
    ),
    "a little more than half of an odd number": (
        [falling(0.8, 39)],
        "fine: it sees 20 of 39 steps back, 0.8 left each step; that is more than half of the "
        "sequence, and 0.0166% of a gradient is left at its far end",
    ),
    "nothing": (
        [falling(0.001, 3)],
        "vanishing: it sees 0 of 3 steps back, 0.001 left each step; that is at most half of the "
        "sequence, and 1e-07% of a gradient is left at its far end",
    ),
    "cut": (
        [np.repeat([1.0, 0.0], [4, 61])],
        "vanishing: it sees 3 of 64 steps back, 1 left each step; that is at most half of the "
        "sequence, and 0% of a gradient is left at its far end",
    ),
    "a long sequence": (
        [falling(0.999, 10_000)],
        "vanishing: it sees 4602 of 10000 steps back, 0.999 left each step; that is at most half "
        "of the sequence, and 0.00452% of a gradient is left at its far end",
    ),
    "one step": (
        [falling(0.5, 1)],
        "fine: it sees all 1 step back, 0.5 left each step; that is all of the sequence, and 50% "
        "of a gradient is left at its far end",
    ),
    "one step that forgets": (
        [falling(0.005, 1)],
        "vanishing: it sees 0 of 1 step back, 0.005 left each step; that is at most half of the "
        "sequence, and 0.5% of a gradient is left at its far end",
    ),
    "no step": ([falling(1, 0)], "fine: there is no step to see back"),
    "some growth": (
        [np.linspace(1, 10, 41)],
        "fine: it sees all 40 steps back, 1.05 left each step; that is all of the sequence, and a "
        "gradient is 10 times as large at its far end",
    ),
    "growth": (
        [falling(1.2, 40)],
        "exploding: a gradient grows 1.47e+03 times in 40 steps, 1.2 a step",
    ),
    "growth in one step": (
        [falling(11, 1)],
        "exploding: a gradient grows 11 times in 1 step, 11 a step",
    ),
    "overflow": (
        [np.append(falling(1e100, 2), [np.inf, *[np.nan] * 5])],
        "exploding: a gradient grows beyond the largest number in 8 steps",
    ),
    "growth on the way to something": (
        [np.exp(bump(50, 0.5))],
        "fine: it sees all 64 steps back, 0.939 left each step; that is all of the sequence, and "
        "50% of a gradient is left at its far end, though 50 times as large on the way, 4 steps "
        "back",
    ),
    "growth on the way to nothing": (
        [np.exp(bump(50, 1e-20))],
        "vanishing: it sees 14 of 64 steps back, 0.446 left each step; that is at most half of the "
        "sequence, and 1e-18% of a gradient is left at its far end, though 50 times as large on "
        "the way, 4 steps back",
    ),
    "rows that differ": (
        [falling(0.8), falling(0.97), falling(0.98)],
        "fine: it sees all 64 steps back, 0.97 left each step; that is all of the sequence, and "
        "14.2% of a gradient is left at its far end, in 2 of 3 rows",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_a_finding_is_a_sentence_with_its_numbers(case):
    curves, sentence = SENTENCES[case]
    diagnosis = diagnose(horizon_of(*curves))
    assert str(diagnosis).splitlines()[0] == sentence
    (name,) = diagnosis.findings
    assert len(diagnosis.advice) == (name != "fine")


def test_rows_that_do_different_things_are_told_apart():
    diagnosis = diagnose(horizon_of(falling(1.2), falling(0.5)))
    assert str(diagnosis).splitlines()[:2] == [
        "exploding: a gradient grows 1.17e+05 times in 64 steps, 1.2 a step, in 1 of 2 rows",
        "vanishing: it sees 6 of 64 steps back, 0.5 left each step; that is at most half of the "
        "sequence, and 5.42e-18% of a gradient is left at its far end, in 1 of 2 rows",
    ]


def test_what_is_no_number_and_did_not_grow_is_an_error():
    with pytest.raises(ValueError, match="horizon: got NaN, expected numbers"):
        diagnose(horizon_of([1.0, 0.5, np.nan]))


def test_what_vanishes_explodes_and_is_fine():
    diagnosis = diagnose(memory_horizon(found_of(0.8)), spectrum=found_of(0.8))
    assert list(diagnosis.findings) == ["vanishing"]
    assert any("forget bias" in line for line in diagnosis.advice)
    assert str(diagnosis).startswith("vanishing: it sees 20 of 40 steps back, 0.8 left each step;")
    found = found_of(1.2)
    assert list(diagnose(memory_horizon(found)).findings) == ["exploding"]
    diagnosis = diagnose(memory_horizon(found), spectrum=found)
    assert list(diagnosis.findings) == ["chaotic", "exploding"]
    assert diagnosis.findings["chaotic"] == (
        "the largest Lyapunov exponent is 0.182 nats a step, so a small difference of states "
        "doubles in 3.8 steps"
    )
    fine = found_of(1.0)
    assert str(diagnose(memory_horizon(fine), spectrum=fine)) == (
        "fine: it sees all 40 steps back, 1 left each step; that is all of the sequence, and 100% "
        "of a gradient is left at its far end"
    )


def test_cells_as_they_start():
    def findings_of(cell):
        params, xs = cell.init(jax.random.key(0), 8), jax.random.normal(jax.random.key(1), (64, 8))
        found = jax.jit(functools.partial(jacobian_spectrum, cell))(
            params, cell.initial_carry(), xs
        )
        return diagnose(memory_horizon(found), spectrum=found).findings.keys()

    with jax.enable_x64(False):
        assert findings_of(jaxrnn.gru(16)) == {"vanishing"}
        assert findings_of(jaxrnn.lstm(16, forget_bias=4.0)) == {"fine"}


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("steps", [1, 6, 39])
@pytest.mark.parametrize("seed", range(20))
def test_no_diagnosis_contradicts_itself(steps, rows, seed):
    """One reason for a row, "all" for all alone, numbers that fit, advice where it is needed."""
    rng = np.random.default_rng(seed)
    drift, noise = rng.normal(0, 0.3, (rows, 1)), rng.normal(0, 1, (rows, steps))
    curves = np.exp(np.cumsum(np.c_[np.zeros((rows, 1)), drift + 0.3 * noise], axis=1))
    reached = horizon_of(*curves)
    diagnosis = diagnose(reached)
    assert len(diagnosis.advice) == len(diagnosis.findings.keys() - {"fine"})
    assert all(". " not in line and "\n" not in line for line in diagnosis.advice)
    if {"vanishing", "exploding"} <= diagnosis.findings.keys():
        assert all(f"in {rows / 2:.0f} of {rows} rows" in s for s in diagnosis.findings.values())
    short = np.asarray(reached.horizon) <= steps / 2
    assert ("vanishing" in diagnosis.findings) == (2 * short.sum() >= rows)
    assert ("exploding" in diagnosis.findings) == (2 * (curves[:, -1] > 10).sum() >= rows)
    for name, sentence in diagnosis.findings.items():
        if name != "exploding":
            match = re.match(r"it sees (?:all|(\d+) of) (\d+) steps? back", sentence)
            assert int(match[1] or steps) in np.asarray(reached.horizon)
            assert int(match[2]) == steps
            assert (2 * int(match[1] or steps) <= steps) == (name == "vanishing")


def test_what_is_saturated():
    gates = {"saved.f": jnp.array([[0.2, 0.6], [0.3, 0.7]]), "saved.q": jnp.full((2, 2), jnp.nan)}
    diagnosis = diagnose(memory_horizon(found_of(1.0)), gates=gates)
    assert diagnosis.findings == {"saturated": "90% of saved.f are near an end of its range"}
    both = "90% of saved.f and 60% of saved.i are near an end of its range"
    gates = {**gates, "saved.i": jnp.array([[0.1, 0.5]]), "saved.o": jnp.array([[0.1, 0.4]])}
    diagnosis = diagnose(memory_horizon(found_of(0.8)), gates=gates)
    assert list(diagnosis.findings) == ["vanishing", "saturated"]
    assert diagnosis.findings["saturated"] == both
    assert len(diagnosis.advice) == 2


@pytest.fixture
def axes():
    figure = Figure()
    yield figure.subplots()
    figure.canvas.draw()


def test_a_flow_map_has_a_row_for_each_layer(axes):
    norms = [jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.full((3, 1), 0.1)]
    assert plots.plot_gradient_flow(axes, norms) is axes
    table = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(table, [[np.log10(np.sqrt(12.5)), np.nan, np.nan], [-1, -1, -1]])


def test_a_flow_map_of_nothing(axes):
    plots.plot_gradient_flow(axes, [jnp.zeros((0, 2))])


def test_curves_carry_their_numbers(axes):
    assert plots.plot_memory_horizon(axes, {"cell": memory_horizon(found_of(0.8))}) is axes
    assert axes.get_legend().texts[0].get_text() == "cell: × 0.8 a step, sees 20 back"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.arange(41) * np.log10(0.8), atol=1e-9)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), axes.lines[0].get_ydata(), atol=1e-9)


def test_a_spectrum_says_whether_nearby_states_converge(axes):
    plots.plot_jacobian_spectrum(axes, found_of(0.8))
    assert axes.get_title().endswith("nearby states converge, -0.223 nats a step")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.full(H, np.log(0.8)))


def test_gates_are_bars_and_what_is_no_gate_is_not(axes):
    gates = {"saved.f": jnp.array([[0.2, 0.6], [0.4, 0.0]]), "saved.q": jnp.full((2, 2), jnp.nan)}
    plots.plot_saturation(axes, gates)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.3, 0.3])


def test_per_step_gradients_are_a_line_for_each_parameter(axes):
    plots.plot_per_step_gradients(
        axes, {"w": jnp.array([[3.0, 4.0], [0.0, 0.1]]), "b": jnp.ones((2, 1))}
    )
    assert [text.get_text() for text in axes.get_legend().texts] == ["b", "w"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), np.log10([5, 0.1]))


def test_the_library_is_imported_without_matplotlib():
    without = "import sys; sys.modules['matplotlib'] = None"
    code = f"{without}; import jaxrnn; jaxrnn.diagnostics.plots.plot_gradient_flow"
    subprocess.run([sys.executable, "-c", code], check=True)
