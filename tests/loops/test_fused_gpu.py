"""The kernel of `fused` for a GPU: exact in JAX's interpreter, and compiled for an H100.

`backend.assume("gpu")` selects it, on any device. JAX's interpreter knows nothing of layouts, so
the compiler says whether the threads hold what they need (`test_the_compiler_takes_it`).
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from loop_problems import problem, result, transformed
from reference import distance, often

import jaxrnn
from jaxrnn import fused
from jaxrnn.loops import backend
from jaxrnn.loops.fused import gpu_plan

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, H = 4, 3, 4
ROOT = Path(__file__).parents[2]
# Those of their operations that no kernel has are named by the error.
REFUSED = {
    "lru": "complex64",
    "s5": "complex64",
    "selective_ssm": "",
    "slstm": "reshape",
    "mlstm": "float32[3,4] beside the batch (3, 2, 3)",
    "delta_rule": "float32[3,4] beside the batch (3, 2, 3)",
    "conv_lstm": "conv_general_dilated",
}
CELLS = {name: make for name, make in jaxrnn.CELLS if name not in REFUSED}
ALWAYS = ("elman", "gru", "lstm", "layer_norm_lstm", "projected_lstm")
INTERPRETED = fused(interpret=True)
LOOPS = INTERPRETED, jaxrnn.scan


@pytest.fixture(autouse=True)
def _gpu():
    """The kernel of a GPU, and float64 in all threads, also in those of the interpreter."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    with backend.assume("gpu"):
        yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True)
def _two_rows(monkeypatch):
    """Two rows of the batch in a block of threads, so that the last block is padded."""
    monkeypatch.setattr(gpu_plan, "MULTIPROCESSORS", 2)


def assert_exact(step, *args, reference=jaxrnn.scan):
    got = result(INTERPRETED, step, *args)
    with backend.assume("cpu"):
        wanted = result(reference, step, *args)
    assert distance(got[0], wanted[0]) < VALUES
    assert distance(got[1], wanted[1]) < GRADIENTS


@pytest.mark.parametrize("cell_name", often(CELLS, ALWAYS))
def test_values_and_gradient_equal_autodiff(cell_name):
    cell = CELLS[cell_name](H)
    assert_exact(cell, *problem(cell, T))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_short_sequences(steps):
    cell = jaxrnn.elman(H)
    assert_exact(cell, *problem(cell, steps))


@pytest.mark.parametrize("batch", [(), (1,), (2, 2)])
def test_any_number_of_batch_axes(batch):
    cell = jaxrnn.gru(H)
    assert_exact(cell, *problem(cell, 2, batch))


@pytest.mark.parametrize("hidden", often([1, 3, 130], [1, 130]))
def test_any_number_of_features(hidden):
    """With 130 features each thread has two columns, and most of the second one is padding."""
    cell = jaxrnn.gru(hidden)
    assert_exact(cell, *problem(cell, 2))


@pytest.mark.parametrize(
    "name", often(["masks and resets", "noise", "clipped"], ["masks and resets", "noise"])
)
def test_transformed_cells_keep_their_gradient(name):
    step, *args = transformed(name)
    assert_exact(step, *args, reference=jaxrnn.bptt)


def test_plain_steps_are_derived():
    cell = jaxrnn.elman(H)
    params, carry, xs = problem(cell, T)

    def step(params, carry, x):
        h, count = carry
        h = jnp.tanh(x @ params["w_x"] + h @ params["w_h"]) ** 3
        return (h, count + 1), h * count[..., None]

    assert_exact(step, params, (carry, jnp.zeros(B)), xs)


def test_booleans_and_integers_are_inputs_carries_and_outputs():
    def step(params, carry, x):
        h, is_large, count = carry
        h = jnp.where(x[1][:, None] | is_large, x[0], h * params)
        return (h, jnp.abs(h) > 1, count + x[2]), (is_large, x[1], count)

    _, h, xs = problem(jaxrnn.elman(H), T)
    x = jnp.concatenate([xs, -xs], axis=-1), xs[..., 0] > 0, jnp.arange(T * B).reshape(T, B)
    args = jnp.float64(0.5), (h, h > 1, jnp.arange(B)), x
    got, wanted = (jax.jit(functools.partial(loop, step))(*args) for loop in LOOPS)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, wanted)
    assert distance(got, wanted) == 0


@pytest.mark.parametrize("cell_name", ["lstm", "projected_lstm"])
def test_rows_that_do_not_fit_are_kept_in_registers(cell_name, monkeypatch):
    cell = CELLS[cell_name](16)
    args = problem(cell, 2)
    kept = []
    plan = gpu_plan.plan

    def noting_rows(loop, interpret):
        kept.append(plan(loop, interpret))
        return kept[-1]

    monkeypatch.setattr(gpu_plan, "plan", noting_rows)
    monkeypatch.setattr(gpu_plan, "SHARED_MEMORY", 60_000)
    assert_exact(cell, *args)
    assert {rows for plan in kept for rows in plan.held.values()} >= {8}


@pytest.mark.parametrize("dtype", often([jnp.float32, jnp.bfloat16], [jnp.bfloat16]))
def test_narrow_arrays_stay_as_narrow_as_in_bptt(dtype):
    cell = jaxrnn.lstm(H)
    args = problem(cell, T, dtype=dtype)

    def outputs_and_gradient(loop):
        @jax.jit
        def run(*args):
            values, pullback = jax.vjp(functools.partial(loop, cell), *args)
            return values, pullback(jax.tree.map(jnp.cos, values))

        return run(*args)

    got = outputs_and_gradient(INTERPRETED)
    with backend.assume("cpu"):
        wanted = outputs_and_gradient(jaxrnn.bptt)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, wanted)
    got, wanted = jax.tree.map(lambda x: x.astype(float), (got, wanted))
    assert distance(got, wanted) < 4 * jnp.finfo(dtype).eps


def test_functions_that_the_compiler_lacks_are_exact():
    """log1p, expm1 and powers are made of other functions."""

    def step(params, carry, x):
        carry = (
            jnp.log1p(jnp.exp(x)) + jnp.expm1(carry * params) + jnp.abs(x) ** 3 + (x * x + 1) ** -2
        )
        return carry, carry

    xs = jnp.asarray([[1e-20, -1e-9, 1e-3, 0.0], [700.0, -700.0, 3.0, -3.0]])[:, None]
    with jax.debug_nans(False):
        assert_exact(step, jnp.full((1, 4), 1e-3), jnp.full((1, 4), 1e-12), xs)


def message(step, *args):
    with pytest.raises((TypeError, ValueError)) as raised:
        jax.eval_shape(functools.partial(fused(), step), *args)
    return str(raised.value)


@pytest.mark.parametrize("cell_name", REFUSED)
def test_a_step_without_a_kernel_is_refused(cell_name):
    cell = dict(jaxrnn.CELLS)[cell_name](H)
    params = cell.init(jax.random.key(0), 2, jnp.float32)
    xs = jnp.zeros((T, B, *cell.feature_shape(2)), jnp.float32)
    text = message(cell, params, cell.initial_carry((B,)), xs)
    assert text.startswith(f"step: got {REFUSED[cell_name]}")
    assert text.endswith("or loop=jaxrnn.bptt")


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    large = jaxrnn.gru(512)
    # W takes 512 x 1536 x 4 = 3,145,728 bytes.
    assert message(large, *jax.eval_shape(lambda: problem(large, 2, dtype=jnp.float32))) == (
        "step: got a step that takes 3,152,896 bytes on chip in fused() on a GPU, expected at most "
        "232,448 of shared memory and 49,152 of registers, or loop=jaxrnn.bptt"
    )
    text = message(jaxrnn.gru(H), *problem(jaxrnn.gru(H)))
    assert "float64 numbers in fused() on a GPU" in text or "0.11.2 or newer" in text


COMPILE = """
import json, sys
from benchmarks import gpu
device = gpu.prepare()
import jax, jax.numpy as jnp
import jaxrnn
from jaxrnn.loops import backend
from jaxrnn.loops.fused import gpu_plan

rows = []
for name, hidden, batch, dtype in json.loads(sys.argv[1]):
    cell = dict(jaxrnn.CELLS)[name.removeprefix("masked ")](hidden)
    def loss(params, carry, xs, mask):
        mask = mask if name.startswith("masked") else None
        last, ys = jaxrnn.unroll(
            cell, params, xs, carry=carry, loop=jaxrnn.fused(), mask=mask
        )
        return sum(jnp.sum(x * x).astype(jnp.float32) for x in jax.tree.leaves((last, ys)))
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 8, dtype))
    carry = jax.eval_shape(lambda: cell.initial_carry((batch,), dtype))
    xs = jax.ShapeDtypeStruct((16, batch, 8), dtype)
    mask = jax.ShapeDtypeStruct((16, batch), bool)
    sharding = jax.sharding.SingleDeviceSharding(device)
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        (params, carry, xs, mask),
    )
    with backend.assume("gpu"):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        text = gradient.lower(*args).compile().as_text()
    rows.append([text.count('custom_call_target="mosaic_gpu'), text.count(" while(")])
print(json.dumps(rows))
"""
SOME = [
    *[(name, 128, 64, "float32") for name in ("elman", "gru", "lstm")],
    ("masked lstm", 128, 1000, "bfloat16"),
]
MORE = [
    *[(name, 128, 1000, "float32") for name in ("gru", "lstm")],
    ("elman", 256, 64, "bfloat16"),
    ("layer_norm_lstm", 64, 64, "float32"),
    *[(name, 36, 300, "float32") for name in CELLS if name != "cfc"],
]


@pytest.mark.parametrize(
    "cases", [SOME, pytest.param(MORE, marks=pytest.mark.thorough)], ids=["some", "more"]
)
def test_the_compiler_takes_it(tmp_path, cases):
    """Machine code for an H100: a kernel forward, one backward, no loop, and nothing spilled."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import gpu

    if reason := gpu.missing():
        pytest.skip(f"{reason}: pip install '.[gpu-compile]'")
    environment = {
        "PYTHONPATH": str(ROOT),
        "MOSAIC_GPU_DUMP_TO": str(tmp_path),
        "MOSAIC_GPU_DUMP_PTXAS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(cases)],
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
        timeout=600,
        capture_output=True,
        text=True,
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    for case, (kernels, loops) in zip(cases, counts, strict=True):
        assert (kernels, loops) == (2, 0), case
    reports = [path.read_text(errors="replace") for path in sorted(tmp_path.glob("*.ptxas"))]
    assert len(reports) >= len(cases)  # equal kernels, such as those of min_gru, are compiled once
    for report in reports:
        assert "for 'sm_90a'" in report
        assert " 0 bytes spill stores, 0 bytes spill loads" in report, report
