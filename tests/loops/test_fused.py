"""The recurrence in kernels: exact in JAX's interpreter, and compiled for a TPU that is not here.

The laws of test_laws.py hold for `fused` too. There a sequence is one chunk; here it is several.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DerivedBackward
from jax.experimental.pallas import tpu as pltpu
from loop_problems import B, H, I, T, problem, result, transformed
from reference import distance, often

import jaxrnn
from jaxrnn import fused
from jaxrnn.loops import backend
from jaxrnn.loops.fused import body, tpu

VALUES, GRADIENTS = 1e-13, 1e-12
COMPLEX = ("lru", "s5")
CELLS = {name: make for name, make in jaxrnn.CELLS if name not in COMPLEX}
ALWAYS = ("elman", "gru", "lstm", "layer_norm_lstm", "mlstm", "cornn")
INTERPRETED = fused(interpret=True)


@pytest.fixture
def chunks_of_three(monkeypatch):
    """Four chunks, the last one shorter."""
    monkeypatch.setattr(tpu.TpuKernel, "chunk", 3)


def assert_exact(step, *args, reference=jaxrnn.scan):
    got, wanted = (result(loop, step, *args) for loop in (INTERPRETED, reference))
    assert distance(got[0], wanted[0]) < VALUES
    assert distance(got[1], wanted[1]) < GRADIENTS


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("cell_name", often(CELLS, ALWAYS))
def test_values_and_gradient_equal_autodiff(cell_name):
    cell = CELLS[cell_name](H)
    assert_exact(cell, *problem(cell))


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_lengths_around_a_chunk(steps):
    cell = jaxrnn.gru(H)
    assert_exact(cell, *problem(cell, steps))


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("batch", [(), (2, 3), (0,), (2, 0)])
def test_any_batch_axes(batch):
    cell = jaxrnn.lstm(H)
    assert_exact(cell, *problem(cell, 4, batch))


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("name", ["masks and resets", "noise", "clipped", "probed"])
def test_transformed_cells_keep_their_gradient(name):
    """Beside `bptt`, since autodiff knows nothing of a probe."""
    step, *args = transformed(name)
    assert_exact(step, *args, reference=jaxrnn.bptt)


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("dtype", often([jnp.float32, jnp.bfloat16], [jnp.bfloat16]))
def test_narrow_arrays_stay_as_narrow_as_in_bptt(dtype):
    """The same operations in the same order: what differs is how XLA fuses them."""
    cell = jaxrnn.lstm(H)
    params, carry, xs = problem(cell, dtype=dtype)

    def outputs_and_gradient(loop):
        def outputs(*args):
            return loop(cell, *args)

        @jax.jit
        def run(*args):
            values, pullback = jax.vjp(outputs, *args)
            return values, pullback(jax.tree.map(jnp.cos, values))

        return run(params, carry, xs)

    got, wanted = outputs_and_gradient(INTERPRETED), outputs_and_gradient(jaxrnn.bptt)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, wanted)
    assert distance(*jax.tree.map(lambda x: x.astype(float), (got, wanted))) < jnp.finfo(dtype).eps


def attention(params, carry, x):
    """A plain step with a counter, an array that stays as it is, and values that it closes over."""
    h, memory, count = carry
    context = jax.nn.softmax(h @ memory.T) @ memory
    h = jnp.tanh(x @ params["w_x"] + h @ params["w_h"] + context)
    return (h, memory, count + 1), (h * count.astype(h.dtype), count)


@pytest.mark.usefixtures("chunks_of_three")
def test_plain_steps_are_derived():
    cell = jaxrnn.elman(H)
    params, h, xs = problem(cell)
    memory = jnp.asarray(np.random.default_rng(2).standard_normal((5, H)))
    carry = h, memory, jnp.int32(0)

    def loss(loop, arrays):
        params, h, memory, xs = arrays
        (last, *_), (ys, _) = loop(attention, params, (h, memory, carry[2]), xs)
        return jnp.sum(jnp.cos(last)) + jnp.sum(ys * ys)

    arrays = params, h, memory, xs
    got, wanted = (
        jax.jit(jax.value_and_grad(functools.partial(loss, loop)))(arrays)
        for loop in (INTERPRETED, jaxrnn.scan)
    )
    assert distance(got, wanted) < GRADIENTS
    assert_exact(DerivedBackward(cell), params, h, xs)


@pytest.mark.usefixtures("chunks_of_three")
def test_in_networks_both_directions_and_other_loops():
    network = jaxrnn.stacked(jaxrnn.bidirectional(jaxrnn.gru(H)), jaxrnn.linear(2))
    params = network.init(jax.random.key(0), I, jnp.float64)
    xs = problem(jaxrnn.gru(H))[2]
    lengths = jnp.array([T, 0, 4])

    def loss(loop, params, xs):
        last, ys = jaxrnn.unroll(network, params, xs, loop=loop, lengths=lengths)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((last, ys)))

    def gradient(loop):
        return jax.jit(jax.grad(functools.partial(loss, loop), argnums=(0, 1)))(params, xs)

    wanted = gradient(jaxrnn.scan)
    assert distance(gradient(INTERPRETED), wanted) < GRADIENTS
    assert distance(gradient(jaxrnn.checkpointed(loop=INTERPRETED)), wanted) < GRADIENTS
    assert distance(gradient(jaxrnn.truncated(T, loop=INTERPRETED)), wanted) < GRADIENTS


@pytest.mark.usefixtures("chunks_of_three")
def test_a_hessian():
    """`jax.hessian` maps over cotangents, which have a batch axis where the arguments have none."""
    cell = jaxrnn.gru(H)
    params, carry, xs = problem(cell, 4, (2,))

    def loss(loop, carry):
        return jnp.sum(jnp.cos(loop(cell, params, carry, xs)[1]))

    got, wanted = (
        jax.jit(jax.hessian(functools.partial(loss, loop)))(carry)
        for loop in (INTERPRETED, jaxrnn.scan)
    )
    assert distance(got, wanted) < GRADIENTS


@pytest.mark.usefixtures("chunks_of_three")
def test_forward_over_reverse_and_a_vmap_of_it():
    cell = jaxrnn.gru(H)
    params, carry, xs = problem(cell, 4)

    def curvature(loop, xs, row):
        def loss(carry):
            return jnp.sum(jnp.cos(loop(cell, params, carry, xs)[1]))

        return jax.jvp(jax.grad(loss), (row,), (jnp.ones_like(row),))[1]

    got, wanted = (
        jax.jit(jax.vmap(functools.partial(curvature, loop, xs[:, 0])))(carry)
        for loop in (INTERPRETED, jaxrnn.scan)
    )
    assert distance(got, wanted) < GRADIENTS


def test_constants_and_inputs_that_nobody_reads_stay_outside():
    """The transposed kernel belongs to the backward pass."""
    cell = jaxrnn.elman(H)
    params, carry, xs = problem(cell)
    w, zs = cell.prepare(params), cell.project(params, xs)
    _, arrays = body.trace(lambda carry, x: cell.advance(w, carry, x[0]), carry, (zs, xs))
    assert [c.shape for c in arrays.constants] == [(H, H)]
    assert distance(arrays.constants[0], params["w_h"]) == 0
    assert [x.shape for x in arrays.xs] == [(T, B, H)]


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    def message(error, step, *args):
        with pytest.raises(error) as raised:
            jax.eval_shape(functools.partial(fused(), step), *args)
        return str(raised.value)

    cell = jaxrnn.lstm(H)
    args = problem(cell, dtype=jnp.float32)
    text = message(ValueError, cell, *args)
    assert (
        text
        == "loop: got fused() on 'cpu', expected a TPU, a GPU, fused(interpret=True), or "
        + ("loop=jaxrnn.bptt")
    )
    with backend.assume("tpu"):
        large = jaxrnn.lstm(4096)
        shapes = jax.eval_shape(lambda: problem(large, 2, dtype=jnp.float32))
        text = message(ValueError, large, *shapes)
        available = f"{int(tpu.SHARE * tpu.VMEM_OF_UNKNOWN_TPU):,}"
        # The recurrent kernel alone takes 4096 x 16384 x 4 = 268,435,456 bytes.
        assert text.startswith("step: got a step that takes 273,809,408 bytes on chip in fused()")
        assert text.endswith(f"expected at most {available}, or loop=jaxrnn.bptt")

        complex_cell = jaxrnn.lru(H)
        shapes = jax.eval_shape(lambda: complex_args(complex_cell))
        text = message(TypeError, complex_cell, *shapes)
        assert text.startswith("step: got complex64")
        assert text.endswith("expected real numbers, or loop=jaxrnn.bptt")

        def sorting(params, carry, x):
            carry = jnp.sort(carry + x * params)
            return carry, carry

        one = jnp.ones((B, H), jnp.float32)
        text = message(TypeError, sorting, one, one, jnp.ones((T, B, H), jnp.float32))
        assert text.startswith("step: got a step that Mosaic does not compile for fused()")
        assert text.endswith("or loop=jaxrnn.bptt")
    with pytest.raises(TypeError, match=r"loop: got fused\(\) under forward-mode"):
        jax.jvp(lambda c: INTERPRETED(cell, args[0], c, args[2])[1], (args[1],), (args[1],))


def complex_args(cell):
    params = cell.init(jax.random.key(0), I)
    return params, cell.initial_carry((B,)), jnp.zeros((T, B, I), jnp.float32)


def compiled(chip, step, shapes):
    """The gradient under `fused()`, compiled for a v5e."""

    def loss(*args):
        leaves = jax.tree.leaves(fused()(step, *args))
        return sum(jnp.sum(x * x).astype(jnp.float32) for x in leaves)

    device = jax.sharding.AbstractDevice("TPU v5 lite", num_cores=1, platform="tpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), in_shardings=chip, out_shardings=chip)
    with backend.assume("tpu"), jax.sharding.use_abstract_mesh(mesh):
        return grad.lower(*shapes).compile()


def shapes_of(cell, steps, batch, inputs, dtype):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs, dtype))
    carry = jax.eval_shape(lambda: cell.initial_carry(batch, dtype))
    xs = jax.ShapeDtypeStruct((steps, *batch, *cell.feature_shape(inputs)), dtype)
    return params, carry, xs


@pytest.mark.tpu
@pytest.mark.optimized
@pytest.mark.parametrize("cell_name", CELLS)
def test_the_tpu_compiler_takes_every_real_cell(v5e, cell_name):
    """At sizes that fill no tile of 8 by 128; one kernel forward and one backward, and no loop."""
    cell = CELLS[cell_name](36)
    text = compiled(v5e, cell, shapes_of(cell, 20, (3,), 5, jnp.float32)).as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert " while(" not in text


@pytest.mark.tpu
@pytest.mark.optimized
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("hidden", [128, 256, 512, 1024])
@pytest.mark.parametrize("cell_name", ["elman", "gru", "lstm"])
def test_the_memory_on_chip_is_no_more_than_we_say(v5e, cell_name, hidden, dtype, monkeypatch):
    """The compiler gets as many bytes as we say that a kernel takes."""
    params = pltpu.CompilerParams
    monkeypatch.setattr(
        pltpu,
        "CompilerParams",
        lambda **options: params(**options | {"vmem_limit_bytes": sizes[-1]}),
    )
    sizes, run = [], tpu.TpuKernel.run

    def noting_size(kernel, arrays):
        sizes.append(kernel.bytes_on_chip)
        return run(kernel, arrays)

    monkeypatch.setattr(tpu.TpuKernel, "run", noting_size)
    cell = CELLS[cell_name](hidden)
    compiled(v5e, cell, shapes_of(cell, 40, (16,), hidden, dtype))
    assert max(sizes) < 40 * 2**20
