"""Loops are lowered for a GPU and a TPU from here; where its compiler is, a TPU's takes them."""

import functools

import jax
import jax.numpy as jnp
import pytest
from reference import often

import jaxrnn

CELLS, LOOPS = dict(jaxrnn.CELLS), dict(jaxrnn.LOOPS)


def gradient_and_arguments(step, loop, dtype=jnp.float32):
    cell = CELLS["gru"](8) if step == "plain" else CELLS[step](8)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 4, dtype))
    carry = jax.eval_shape(lambda: cell.initial_carry((2,), dtype))
    run = functools.partial(cell) if step == "plain" else cell

    def loss(params, carry, xs):
        return jnp.mean(loop(run, params, carry, xs)[1] ** 2)

    xs = jax.ShapeDtypeStruct((16, 2, *cell.feature_shape(4)), dtype)
    return jax.value_and_grad(loss, argnums=(0, 1, 2)), (params, carry, xs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("step", ["lstm", "lru", "plain"])
@pytest.mark.parametrize("loop_name", LOOPS)
def test_every_loop_is_lowered_for_gpu_and_tpu(loop_name, step, dtype):
    if dtype == jnp.bfloat16 and step == "lru":
        pytest.skip("complex numbers have no half precision")
    grad, args = gradient_and_arguments(step, LOOPS[loop_name], dtype)
    exported = jax.export.export(jax.jit(grad), platforms=("cuda", "tpu"))(*args)
    assert exported.platforms == ("cuda", "tpu")
    _, *grads = exported.out_avals
    assert [(g.shape, g.dtype) for g in grads] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(args)
    ]


@pytest.mark.tpu
@pytest.mark.optimized
@pytest.mark.parametrize("cell_name", often(CELLS, ("elman", "lstm", "lru")))
@pytest.mark.parametrize("loop_name", LOOPS)
def test_the_tpu_compiler_takes_every_cell_and_loop(v5e, cell_name, loop_name):
    grad, args = gradient_and_arguments(cell_name, LOOPS[loop_name])
    jitted = jax.jit(grad, in_shardings=v5e, out_shardings=v5e)
    assert jitted.lower(*args).compile().memory_analysis().temp_size_in_bytes > 0
