"""The memory plan: what the compiler says, and which loop it leads to."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxrnn

CELL = jaxrnn.gru(16)
XS = jax.ShapeDtypeStruct((1024, 4, 8), jnp.float32)


def loss(params, xs, loop=jaxrnn.bptt):
    last, _ = jaxrnn.unroll(CELL, params, xs, loop=loop)
    return jnp.mean(CELL.output(params, last) ** 2)


@pytest.fixture(scope="module")
def params():
    return jax.eval_shape(lambda: CELL.init(jax.random.key(0), 8))


@pytest.mark.optimized
def test_the_fastest_loop_within_the_budget(params):
    loops = jaxrnn.memory.BY_TIME[:3]
    plan = jaxrnn.diagnostics.memory_plan(loss, params, XS, loops=loops)
    sizes = [row.temporary for row in plan.rows]
    assert sizes == sorted(sizes, reverse=True)
    assert plan.rows[1].kept < plan.rows[0].kept
    assert plan.best.loop is jaxrnn.bptt
    assert all(row.name in str(plan) for row in plan.rows)
    within = plan._replace(budget=sizes[1])
    assert within.best.loop == jaxrnn.checkpointed()
    assert str(within).count("OVER") == 1
    with pytest.raises(ValueError, match=f"budget: got 10 bytes, expected at least {sizes[-1]}"):
        _ = plan._replace(budget=10).best


def test_what_is_no_budget_is_refused(params):
    with pytest.raises(ValueError, match=r"budget: got 'much', expected bytes"):
        jaxrnn.diagnostics.memory_plan(loss, params, XS, budget="much")


MEASURED = r"""
import pathlib, re, jax, jax.numpy as jnp, jaxrnn
def kilobytes(what):
    return int(re.search(what + r":\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
cell, loop = jaxrnn.gru(128), jaxrnn.bptt
params = cell.init(jax.random.key(0), 64)
xs = jnp.ones((6000, 16, 64))
def loss(params, xs, loop):
    last, _ = jaxrnn.unroll(cell, params, xs, loop=loop)
    return jnp.mean(cell.output(params, last) ** 2)
(row,) = jaxrnn.diagnostics.memory_plan(loss, params, xs, loops=(("", loop),)).rows
grad = jax.jit(lambda params, xs: jax.grad(loss)(params, xs, loop)).lower(params, xs).compile()
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = kilobytes("VmRSS")
jax.block_until_ready(grad(params, xs))
print(row.temporary, 1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_plan_is_what_a_run_takes_at_its_peak():
    """Of the process; the allocator adds to it, or takes from what was freed before."""
    command = [sys.executable, "-c", MEASURED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    planned, taken = map(int, done.stdout.split())
    assert planned > 200e6
    assert 0.7 * planned < taken < 1.5 * planned
