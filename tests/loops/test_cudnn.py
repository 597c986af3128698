"""The LSTM by cuDNN: its layout and its rows by JAX's reference, its program by the compiler.

What cuDNN itself computes, `python -m benchmarks accelerator` compares on a GPU.
"""

import functools
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import with_functions
from jax.experimental import rnn
from reference import distance

import jaxrnn
from jaxrnn import cudnn, transforms
from jaxrnn.loops import backend

LOOP = importlib.import_module("jaxrnn.loops.cudnn")
ROOT = Path(__file__).parent.parent.parent
T, B, I, H = 7, 5, 3, 4
CELL = jaxrnn.lstm(H)
LENGTHS = jnp.array([7, 3, 0, 1, 5])
EXACT = 2e-6


def reference(x, h_0, c_0, weights, lengths, *options):
    """The reference in the module of `rnn.lstm`."""
    parts = rnn.unpack_lstm_weights(weights, *options[:3], options[4])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        ys, h, c = rnn.lstm_ref(x, h_0, c_0, *parts, lengths, *options)
    # Nobody may read what cuDNN leaves at padded steps.
    is_valid = jnp.arange(x.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
    return jnp.where(is_valid[..., None], ys, 7.0), h, c


@functools.partial(jax.custom_vjp, nondiff_argnums=range(5, 10))
def lstm(*args):
    """In the place of `rnn.lstm`, which has a rule of its own too."""
    return reference(*args)


lstm.defvjp(
    lambda *args: jax.vjp(lambda *arrays: reference(*arrays, *args[4:]), *args[:4]),
    lambda *args: (*args[-2](args[-1]), None),
)


@pytest.fixture
def on_gpu(monkeypatch):
    """As on a GPU, with the reference in the place of cuDNN."""
    monkeypatch.setattr(rnn, "lstm", lstm)
    LOOP._compiled.clear_cache()
    with backend.assume("gpu"):
        yield
    LOOP._compiled.clear_cache()


def arguments(batch=(B,), dtype=jnp.float32):
    rng = np.random.default_rng(0)
    params = CELL.init(jax.random.key(0), I, dtype)
    params["b"] = params["b"] + jnp.asarray(rng.standard_normal(4 * H), dtype)
    carry = jax.tree.map(
        lambda c: jnp.asarray(rng.standard_normal(c.shape), c.dtype),
        CELL.initial_carry(batch, dtype),
    )
    return params, carry, jnp.asarray(rng.standard_normal((T, *batch, I)), dtype)


def result(loop, cell, args, **options):
    """The outputs of `unroll` and the gradient of a weighted sum of squares."""

    def loss(args):
        params, carry, xs = args
        outputs = jaxrnn.unroll(cell, params, xs, carry=carry, loop=loop, **options)
        leaves = [jnp.ravel(x * x) for x in jax.tree.leaves(outputs)]
        return sum(x @ jnp.cos(jnp.arange(x.size)).astype(x.dtype) for x in leaves), outputs

    (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(args)
    return outputs, grads


def compare(cell, args, **options):
    got, wanted = (result(loop, cell, args, **options) for loop in (cudnn(), jaxrnn.scan))
    assert distance(got, wanted) < EXACT


def test_the_weights_are_packed_in_the_order_of_cudnn():
    params, _, _ = arguments()
    parts = rnn.unpack_lstm_weights(CELL.cudnn_weights(params), I, H, 1, False)
    wanted = params["w_x"].T, params["w_h"].T, params["b"], jnp.zeros(4 * H)
    for (part,), array in zip((p.values() for p in parts), wanted, strict=True):
        np.testing.assert_array_equal(part, array)


@pytest.mark.parametrize("batch", [(B,), (), (2, 3)])
def test_values_and_gradient_are_those_of_scan(on_gpu, batch):
    compare(CELL, arguments(batch))


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths(on_gpu, reverse):
    """Also a row without any valid step, and padding that is not a number."""
    params, carry, xs = arguments()
    is_valid = jaxrnn.lengths_to_mask(LENGTHS, T)
    xs = jnp.where(is_valid[..., None], xs, jnp.nan)
    compare(CELL, (params, carry, xs), lengths=LENGTHS, reverse=reverse)
    loop_result = cudnn()(
        transforms.masked(CELL), params, carry, transforms.MaskedInputs(xs, is_valid)
    )
    wanted = jaxrnn.scan(
        transforms.masked(CELL), params, carry, transforms.MaskedInputs(xs, is_valid)
    )
    assert distance(loop_result, wanted) < EXACT  # the held states too


def test_a_network(on_gpu):
    net = jaxrnn.bidirectional(CELL, jaxrnn.lstm(3))
    params = net.init(jax.random.key(0), I)
    compare(net, (params, net.initial_carry((B,)), arguments()[2]), lengths=LENGTHS)


def test_no_steps_and_no_rows(on_gpu):
    params, carry, xs = arguments()
    for args in ((params, carry, xs[:0]), arguments((0,))):
        compare(CELL, args)


def test_a_mask_with_a_gap(on_gpu):
    args = params, carry, xs = arguments()
    mask = jnp.ones((T, B), bool).at[2, 1].set(False)

    def run(xs):
        return jaxrnn.unroll(CELL, params, xs, carry=carry, mask=mask, loop=cudnn())

    for function in (run, jax.jit(run)):  # the mask itself is not traced
        with pytest.raises(ValueError, match=r"xs\.mask: got a row with a gap, expected valid"):
            function(xs)

    @jax.jit
    def traced(mask):
        return result(cudnn(), CELL, args, mask=mask)

    (last, ys), (_, d_carry, d_xs) = traced(mask)
    for rows in (last.h, last.c, ys[0], d_carry.h, d_xs[0]):
        np.testing.assert_array_equal(jnp.isnan(rows).all(axis=-1), jnp.arange(B) == 1)


def refusals():
    """Pairs of a message and a call."""
    params, carry, xs = arguments()

    def call(cell, params, carry, xs, **options):
        return lambda: jaxrnn.unroll(cell, params, xs, carry=carry, loop=cudnn(), **options)

    gru = jaxrnn.gru(H)
    yield (
        r"step: got gru\(4\), expected jaxrnn\.lstm without resets or noise, or a loop such as",
        call(gru, gru.init(jax.random.key(0), I), carry.h, xs),
    )
    reset = jnp.zeros((T, B), bool)
    yield r"step: got resettable\(lstm\(4\)", call(CELL, params, carry, xs, reset=reset)
    changed = with_functions(CELL)
    yield r"step: got Changed\(lstm\(4\)\), expected", call(changed, params, carry, xs)

    class subclass(jaxrnn.lstm):
        """It may compute something else."""

    yield r"step: got subclass\(4\), expected", call(subclass(H), params, carry, xs)
    yield r"step: got __call__, expected", call(CELL.__call__, params, carry, xs)
    for dtype in (jnp.float64, jnp.bfloat16):
        message = rf"params\['b'\]: got {jnp.dtype(dtype)}\[16\], expected float32, or a loop"
        yield message, call(CELL, *arguments(dtype=dtype))
    yield (
        r"step: got _CarryOutput\(lstm\(4\)\), expected",
        lambda: jaxrnn.history(CELL, params, xs, loop=cudnn()),
    )


@pytest.mark.parametrize("case", range(8))
def test_what_cudnn_does_not_run_is_refused(on_gpu, case):
    message, run = list(refusals())[case]
    with pytest.raises((TypeError, ValueError), match=message):
        run()


def test_without_a_gpu_it_names_the_loop_to_take():
    message = (
        r"loop: got cudnn\(\) on 'cpu', expected an NVIDIA GPU, or a loop such as jaxrnn\.bptt"
    )
    with pytest.raises(ValueError, match=message):
        cudnn()(CELL, *arguments())


def test_forward_mode_names_the_loop_to_take(on_gpu):
    params, carry, xs = arguments()
    with pytest.raises(TypeError, match="loop: got cudnn under forward-mode differentiation"):
        jax.jvp(lambda xs: cudnn()(CELL, params, carry, xs), (xs,), (xs,))


@pytest.fixture
def traced_for_gpu(monkeypatch):
    """As on a GPU, up to lowering; only the size of cuDNN's workspace is made up."""
    size = "compute_rnn_workspace_reserve_space_sizes"
    monkeypatch.setattr(rnn.gpu_rnn, size, lambda *_: (64, 128), raising=False)
    LOOP._compiled.clear_cache()
    with backend.assume("gpu"):
        yield
    LOOP._compiled.clear_cache()


def gradient(params, carry, xs):
    return jax.grad(lambda params: jnp.sum(cudnn()(CELL, params, carry, xs)[1]))(params)


def test_the_program_calls_cudnn_once_in_each_direction(traced_for_gpu):
    text = str(jax.make_jaxpr(gradient)(*arguments()))
    assert text.count("rnn_fwd[") == text.count("rnn_bwd[") == 1
    assert "cudnn_allow_tf32=True" in text
    with jax.default_matmul_precision("highest"):
        assert "cudnn_allow_tf32=False" in str(jax.make_jaxpr(gradient)(*arguments()))


def test_transformations_that_cudnn_does_not_have(traced_for_gpu):
    params, carry, xs = arguments()
    with pytest.raises(TypeError, match=r"loop: got cudnn\(\) under vmap, expected batch axes"):
        jax.vmap(lambda xs: cudnn()(CELL, params, carry, xs))(xs[None])
    with (
        jax.default_matmul_precision("bfloat16"),
        pytest.raises(ValueError, match="jax_default_matmul_precision: got bfloat16, expected"),
    ):
        cudnn()(CELL, params, carry, xs)


def compile_for_h100():
    """Prints the targets of the custom calls of the compiled program of a gradient."""
    from benchmarks import gpu

    if reason := gpu.missing():
        print(json.dumps({"missing": reason}))
        return
    sharding = jax.sharding.SingleDeviceSharding(gpu.prepare())
    # It asks cuDNN, which asks the GPU.
    rnn.gpu_rnn.compute_rnn_workspace_reserve_space_sizes = lambda *_: (64, 128)
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments()
    )
    with backend.assume("gpu"):
        program = jax.jit(gradient).lower(*args).compile().as_text()
    print(json.dumps({"targets": re.findall('custom_call_target="(.*?)"', program)}))


def test_the_gpu_compiler_takes_it():
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        pytest.skip(f"{found['missing']}: pip install '.[gpu-compile]'")
    cudnn_calls = [target for target in found["targets"] if target.startswith("cudnn_rnn")]
    assert cudnn_calls == ["cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi"]


if __name__ == "__main__":
    compile_for_h100()
