"""The certificate passes what is right, and nothing else."""

import jax
import jax.numpy as jnp
import pytest
from helpers import with_functions

import jaxrnn
from jaxrnn.certify import Certificate, Row


def altered(**parts):
    """A GRU whose parts are spoiled: each is a function of the right one."""
    cell = jaxrnn.gru(4)
    return with_functions(
        cell, **{name: spoil(getattr(cell, name)) for name, spoil in parts.items()}
    )


def adjoint_with(change):
    def spoil(adjoint):
        def spoiled(w, seen, d_h):
            return change(*adjoint(w, seen, d_h), seen, d_h)

        return spoiled

    return spoil


def gather_with(change):
    def spoil(gather):
        def spoiled(w, seen, deltas):
            return change(gather, w, seen, deltas)

        return spoiled

    return spoil


FAULTS = {
    "a tiny factor": altered(adjoint=adjoint_with(lambda d, delta, *_: (d * (1 + 1e-10), delta))),
    "a sign": altered(adjoint=adjoint_with(lambda d, delta, *_: (d, delta._replace(z=-delta.z)))),
    "a term too few": altered(
        adjoint=adjoint_with(lambda d, delta, seen, d_h: (d - d_h * seen.saved.z, delta))
    ),
    "h_t for h_{t-1}": altered(
        gather=gather_with(
            lambda gather, w, seen, deltas: gather(w, seen._replace(carry_tm1=seen.carry), deltas)
        )
    ),
    "nothing for the weights": altered(
        gather=gather_with(
            lambda gather, w, *rest: (jax.tree.map(jnp.zeros_like, w), gather(w, *rest)[1])
        )
    ),
}


def judges_out(certificate):
    return {row.judge for row in certificate.rows if not row.ok}


# The others stand in `jaxrnn certify`, which the gate runs.
SOME_CELLS = ("elman", "lru")


@pytest.mark.parametrize(
    "cell_name",
    [
        pytest.param(name, marks=[] if name in SOME_CELLS else pytest.mark.thorough)
        for name, _ in jaxrnn.CELLS
    ],
)
def test_a_cell_by_hand_passes(cell_name):
    cell = dict(jaxrnn.CELLS)[cell_name](4)
    certificate = jaxrnn.certify(cell)
    assert certificate.ok, str(certificate)
    assert {row.path for row in certificate.rows} == {"by hand"}
    judges = {"values of scan", "autodiff", "differences", "truth of float32"}
    assert {row.judge for row in certificate.rows} == judges
    arrays = {row.array for row in certificate.rows if row.judge == "autodiff"}
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
    assert "autodiff" in judges_out(certificate)
    if fault != "a tiny factor":  # differences and float32 cannot see a relative 1e-10
        assert judges_out(certificate) == {"autodiff", "differences", "truth of float32"}
    assert "OUT" in str(certificate)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_cut_one_step_off_does_not(shift):
    def loop(step, params, carry, xs):
        return jaxrnn.truncated(4)(step, params, carry, xs)

    loop.reach = jaxrnn.truncated(4 + shift).reach
    assert {"autodiff", "differences"} <= judges_out(jaxrnn.certify(jaxrnn.gru(3), loop=loop))


def test_a_gradient_less_exact_than_autodiff_in_float32_does_not():
    def rounded(d_h, delta, *_):
        def coarse(x):
            return x.astype(jnp.bfloat16).astype(x.dtype) if x.dtype == jnp.float32 else x

        return coarse(d_h), jax.tree.map(coarse, delta)

    assert judges_out(jaxrnn.certify(altered(adjoint=adjoint_with(rounded)))) == {
        "truth of float32"
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
    assert {row.path for row in derived.rows} == {"derived"}
    assert {row.step for row in derived.rows} == {"step"}
    by_scan = jaxrnn.certify(cell, params, carry, xs, loop=jaxrnn.scan)
    assert {row.path for row in by_scan.rows} == {"autodiff"}


def test_it_leaves_no_global_setting_changed():
    with jax.enable_x64(False):
        jaxrnn.certify(jaxrnn.elman(2))
        assert jnp.zeros(1).dtype == jnp.float32
        assert jax.config.jax_default_matmul_precision is None


def row(error, limit=1.0, array="xs"):
    return Row("cell", "loop", "by hand", "autodiff", array, error, limit)


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
