"""The certificate passes what is right, and nothing else."""

import sys

import jax
import jax.numpy as jnp
import pytest
from helpers import with_functions
from reference import often

import jaxrnn
from jaxrnn import Certificate, Comparison


def altered(**parts):
    """A GRU whose parts are spoiled: each is a function of the right one."""
    cell = jaxrnn.gru(4)
    return with_functions(
        cell, **{name: spoil(getattr(cell, name)) for name, spoil in parts.items()}
    )


def adjoint_with(change):
    def spoil(adjoint):
        def spoiled(w, residuals, d_h):
            return change(*adjoint(w, residuals, d_h), residuals, d_h)

        return spoiled

    return spoil


def gradients_with(change):
    def spoil(gradients):
        def spoiled(w, residuals, deltas):
            return change(gradients, w, residuals, deltas)

        return spoiled

    return spoil


FAULTS = {
    "a tiny factor": altered(adjoint=adjoint_with(lambda d, delta, *_: (d * (1 + 1e-10), delta))),
    "a sign": altered(adjoint=adjoint_with(lambda d, delta, *_: (d, delta._replace(z=-delta.z)))),
    "a term too few": altered(
        adjoint=adjoint_with(lambda d, delta, r, d_h: (d - d_h * r.saved.z, delta))
    ),
    "h_t for h_{t-1}": altered(
        gradients=gradients_with(
            lambda gradients, w, r, deltas: gradients(w, r._replace(previous_carry=r.carry), deltas)
        )
    ),
    "nothing for the weights": altered(
        gradients=gradients_with(
            lambda gradients, w, *rest: (jax.tree.map(jnp.zeros_like, w), gradients(w, *rest)[1])
        )
    ),
}


def references_out(certificate):
    return {row.reference for row in certificate.rows if not row.ok}


# The others stand in `jaxrnn certify`, which the gate runs.
SOME_CELLS = ("elman", "lru")


@pytest.mark.parametrize(
    "cell_name",
    [
        pytest.param(name, marks=[] if name in SOME_CELLS else pytest.mark.thorough)
        for name, _ in jaxrnn.CELLS
    ],
)
def test_a_cell_with_a_handwritten_backward_pass_passes(cell_name):
    cell = dict(jaxrnn.CELLS)[cell_name](4)
    certificate = jaxrnn.certify(cell)
    assert certificate.ok, str(certificate)
    assert {row.backward for row in certificate.rows} == {"handwritten"}
    references = {"values of scan", "autodiff", "finite differences", "float64 (in float32)"}
    assert {row.reference for row in certificate.rows} == references
    arrays = {row.array for row in certificate.rows if row.reference == "autodiff"}
    params = cell.init(jax.random.key(0), 5)
    assert {"xs"}.union(f"params['{name}']" for name in params) < arrays


@pytest.mark.thorough
@pytest.mark.parametrize("loop_name", [name for name, _ in jaxrnn.LOOPS])
def test_a_loop_passes(loop_name):
    certificate = jaxrnn.certify(jaxrnn.lstm(3), loop=dict(jaxrnn.LOOPS)[loop_name])
    assert certificate.ok, str(certificate)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_backward_pass_does_not(fault):
    certificate = jaxrnn.certify(FAULTS[fault])
    assert not certificate.ok
    assert "autodiff" in references_out(certificate)
    if fault != "a tiny factor":  # differences and float32 cannot see a relative 1e-10
        assert references_out(certificate) == {
            "autodiff",
            "finite differences",
            "float64 (in float32)",
        }
    assert "OUT" in str(certificate)


@pytest.mark.parametrize("shift", often([-1, 1], [1]))
def test_a_cut_one_step_off_does_not(shift):
    def loop(step, params, carry, xs):
        return jaxrnn.truncated(4)(step, params, carry, xs)

    loop.window_start = jaxrnn.truncated(4 + shift).window_start
    assert {"autodiff", "finite differences"} <= references_out(
        jaxrnn.certify(jaxrnn.gru(3), loop=loop)
    )


def test_a_gradient_less_exact_than_autodiff_in_float32_does_not():
    def rounded(d_h, delta, *_):
        def coarse(x):
            return x.astype(jnp.bfloat16).astype(x.dtype) if x.dtype == jnp.float32 else x

        return coarse(d_h), jax.tree.map(coarse, delta)

    assert references_out(jaxrnn.certify(altered(adjoint=adjoint_with(rounded)))) == {
        "float64 (in float32)"
    }


def test_a_plain_step_is_derived_and_scan_is_autodiff():
    cell = jaxrnn.elman(3)
    params, carry = (
        cell.init(jax.random.key(0), 2, jnp.float64),
        cell.initial_carry((2,), jnp.float64),
    )
    xs = jnp.sin(jnp.arange(20.0)).reshape(5, 2, 2)

    def step(params, carry, x):
        return cell(params, carry, x)

    derived = jaxrnn.certify(step, params, carry, xs)
    assert derived.ok
    assert {row.backward for row in derived.rows} == {"derived"}
    assert {row.step for row in derived.rows} == {"step"}
    by_scan = jaxrnn.certify(cell, params, carry, xs, loop=jaxrnn.scan)
    assert {row.backward for row in by_scan.rows} == {"autodiff"}


def test_it_leaves_no_global_setting_changed():
    with jax.enable_x64(False):
        jaxrnn.certify(jaxrnn.elman(2))
        assert jnp.zeros(1).dtype == jnp.float32
        assert jax.config.jax_default_matmul_precision is None


def row(error, limit=1.0, array="xs"):
    return Comparison("cell", "loop", "handwritten", "autodiff", array, error, limit)


def test_nan_is_out_and_no_rows_prove_nothing():
    assert not Certificate(()).ok
    assert not Certificate((row(float("nan")),)).ok
    assert Certificate((row(0.5),)).ok


def test_worst_keeps_the_array_nearest_to_its_limit():
    rows = (row(0.1, 1.0, "a"), row(0.2, 0.25, "b"), row(0.7, 1.0, "c"))
    assert [kept.array for kept in Certificate(rows).worst().rows] == ["b"]
    nan = row(float("nan"), 1.0, "d")
    assert [kept.array for kept in Certificate((nan, *rows)).worst().rows] == ["d"]
    assert [kept.array for kept in Certificate((*rows, nan)).worst().rows] == ["d"]


@pytest.fixture
def pairs(monkeypatch):
    """The names of the cells and the loops that `certify_all` compares; nothing is computed."""

    def record(*_, names, **__):
        found.append(names)
        return jaxrnn.Certificate(())

    found = []
    monkeypatch.setattr(sys.modules["jaxrnn.certify_all"], "certify", record)
    return found


def test_cells_and_loops_are_selected_by_name(pairs):
    jaxrnn.certify_all(cells=["elman", "stack"])
    plain, narrow = ("elman, plain", "bptt"), ("elman, bfloat16", "bptt")
    assert pairs == [("elman", "bptt"), narrow, plain, ("stack", "bptt, layer by layer")]
    pairs.clear()
    jaxrnn.certify_all(loops=["scan"])
    assert pairs == [("gru", "scan"), ("lru", "scan"), ("lstm, mask, resets", "scan")]
    pairs.clear()
    jaxrnn.certify_all(cells=["elman", "mgu"], loops=["scan", "truncated:4"])
    loops = "scan", "truncated:4"
    assert pairs == [(cell, loop) for cell in ("elman", "mgu") for loop in loops]
    pairs.clear()
    jaxrnn.certify_all()
    assert len(pairs) > 40
