"""Backpropagation through time: what it remembers, what it carries, which steps it takes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DerivedBackward
from reference import distance, often, scans

import jaxrnn
from jaxrnn.loops import backend

CELLS = dict(jaxrnn.CELLS)
# Distinct primes, so that a shape tells what an array is: T, B, I, H.
T, B, I, H = 13, 11, 7, 5
# Of a reservoir, the weights have no gradient.
every_cell = pytest.mark.parametrize("cell_name", [n for n in CELLS if n != "echo_state"])
some_cells = pytest.mark.parametrize("cell_name", often(CELLS, ("gru", "lstm", "lru", "mgu")))


def arguments(cell, dtype=jnp.float64, seed=0):
    rng = np.random.default_rng(seed)
    params = cell.init(jax.random.key(seed), I, dtype)
    return (
        params,
        cell.initial_carry((B,), dtype),
        jnp.asarray(rng.standard_normal((T, B, *cell.feature_shape(I))), dtype),
    )


def loss(loop, step, params, carry, xs):
    carry, ys = loop(step, params, carry, xs)
    return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(c * c).real for c in jax.tree.leaves(carry))


def carried_shapes(scan):
    """Shapes of what a scan hands from step to step; what it stacks has T in front outside."""
    body = scan.params["jaxpr"]
    inside = getattr(body, "jaxpr", body).outvars
    pairs = zip(scan.outvars, inside, strict=True)
    return [out.aval.shape for out, var in pairs if out.aval.shape == var.aval.shape]


def weight_shapes(cell, params):
    """Shapes of the kernels, of what the loop makes of them, and of their transposes."""
    arrays = jax.tree.leaves((params, cell.prepare(params)))
    shapes = {x.shape for x in arrays if x.ndim > 1}
    return shapes | {(*shape[:-2], shape[-1], shape[-2]) for shape in shapes}


@every_cell
def test_no_scan_carries_a_weight(cell_name):
    cell = CELLS[cell_name](H)
    args = arguments(cell)
    shapes = weight_shapes(cell, args[0])

    def carried(loop):
        grad = jax.grad(functools.partial(loss, loop, cell), argnums=(0, 1, 2))
        found = scans(jax.make_jaxpr(grad)(*args).jaxpr)
        assert len(found) == 2  # one there, one back
        return [shape for scan in found for shape in carried_shapes(scan)]

    assert not shapes & set(carried(jaxrnn.bptt))
    assert shapes & set(carried(jaxrnn.scan))  # or the test could not fail


# Arrays of states that `bptt` may need beyond autodiff, if not two: real and imaginary parts stand
# apart wherever a product is taken; norms are taken anew for all steps at once.
MORE_ARRAYS = {"lru": 3, "layer_norm_gru": 5}


@pytest.mark.optimized
@pytest.mark.parametrize("cell_name", often(CELLS, ("elman", "gru", "lstm", *MORE_ARRAYS)))
def test_the_compiled_loop_changes_no_weight_and_needs_few_arrays_more_than_autodiff(cell_name):
    """In its while loops weights stand unchanged; nothing of their shape is computed."""
    steps, batch, inputs, hidden = 101, 17, 31, 61  # primes again, and large beside what is fixed
    cell = CELLS[cell_name](hidden)
    params, carry = cell.init(jax.random.key(0), inputs), cell.initial_carry((batch,))
    xs = jax.ShapeDtypeStruct((steps, batch, *cell.feature_shape(inputs)), jnp.float32)

    def compiled(loop):
        grad = jax.jit(jax.grad(functools.partial(loss, loop, cell), argnums=(0, 1, 2)))
        program = grad.lower(params, carry, xs).compile()
        changed = while_changes(program.as_text(), weight_shapes(cell, params))
        return changed, program.memory_analysis().temp_size_in_bytes

    (changed, ours), (changed_by_scan, autodiffs) = map(compiled, (jaxrnn.bptt, jaxrnn.scan))
    assert not changed
    assert changed_by_scan  # or the test could not fail
    state = max(leaf.nbytes for leaf in jax.tree.leaves(carry))
    arrays = MORE_ARRAYS.get(cell_name, 2)
    assert ours <= autodiffs + (arrays + 0.1) * steps * state


def while_changes(hlo, shapes):
    """The weight-shaped elements of while tuples that the loop's body does not just hand on."""
    computations, name = {}, None
    for line in re.sub(r"/\*index=\d+\*/", "", hlo).splitlines():
        if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].strip("%")
            computations[name] = []
        elif name:
            computations[name].append(line.strip())
    bodies = {
        part.split("body=")[1].split(",")[0].strip("%")
        for lines in computations.values()
        for part in lines
        if " while(" in part
    }
    texts = [f"f32[{','.join(map(str, shape))}]" for shape in shapes]
    found = []
    for body in bodies:
        lines = {
            line.removeprefix("ROOT ").split(" = ")[0].strip("%"): line
            for line in computations[body]
            if " = " in line
        }
        root = next(line for line in computations[body] if line.startswith("ROOT"))
        for operand in root.split(" tuple(")[1].split(")")[0].split(", "):
            made_by = lines[operand.split(" ")[-1].strip("%")]
            if any(text in made_by.split(" = ")[1].split("(")[0] for text in texts):
                found += [] if " get-tuple-element(" in made_by else [made_by]
    assert bodies
    return found


@every_cell
def test_many_to_one_reads_no_zeros(cell_name):
    """Where no output is used, no (T, ...) array of zero cotangents goes into the reverse scan."""
    cell = CELLS[cell_name](H)
    args = arguments(cell)

    def length_of_inputs(use_outputs):
        def value(params, carry, xs):
            carry, ys = jaxrnn.bptt(cell, params, carry, xs)
            return jnp.sum(cell.output(params, carry)) + (jnp.sum(ys) if use_outputs else 0.0)

        found = scans(jax.make_jaxpr(jax.jit(jax.grad(value)))(*args).jaxpr)
        (reverse,) = [scan for scan in found if scan.params["reverse"]]
        return len(reverse.invars)

    # One array for each array of the carry that the output reads.
    arrays = {"selective_ssm": 3}.get(cell_name, 1)
    assert length_of_inputs(True) == length_of_inputs(False) + arrays


@some_cells
def test_a_cell_may_leave_out_its_backward_pass(cell_name):
    cell = CELLS[cell_name](H)
    args = arguments(cell)
    wanted = jax.grad(functools.partial(loss, jaxrnn.scan, cell), argnums=(0, 1, 2))(*args)
    derived = DerivedBackward(cell)
    got = jax.grad(functools.partial(loss, jaxrnn.bptt, derived), argnums=(0, 1, 2))(*args)
    assert distance(got, wanted) < 1e-12


def test_a_plain_step_with_leaves_of_any_dtype():
    """Counters, keys and flags in the carry, in params, in xs; nested trees; several outputs."""

    def step(params, carry, x):
        h, count, key = carry["h"], carry["count"], carry["key"]
        key, sub = jax.random.split(key)
        noise = 0.1 * jax.random.normal(sub, h.shape, h.dtype)
        h = jnp.tanh(x["x"] @ params["w"] + h * params["sign"].astype(h.dtype) + noise)
        h = jnp.where(x["hold"], carry["h"], h)
        carry = {"h": h, "count": count + 1, "key": key}
        return carry, {"y": h**2, "count": count, "hold": x["hold"]}

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((I, H))), "sign": jnp.asarray(1, jnp.int32)}
    carry = {"h": jnp.zeros((B, H)), "count": jnp.asarray(0), "key": jax.random.key(1)}
    xs = {
        "x": jnp.asarray(rng.standard_normal((T, B, I))),
        "hold": jnp.asarray(rng.random((T, 1, 1)) < 0.3),
    }

    def value(loop, w, h, x):
        carry_t, ys = loop(step, params | {"w": w}, carry | {"h": h}, xs | {"x": x})
        assert ys["count"].dtype == carry["count"].dtype
        return jnp.sum(ys["y"]) + jnp.sum(jnp.cos(carry_t["h"]))

    at = (params["w"], carry["h"], xs["x"])
    for loop in (jaxrnn.bptt, jaxrnn.truncated(20), jaxrnn.truncated(13)):
        got = jax.grad(functools.partial(value, loop), argnums=(0, 1, 2))(*at)
        wanted = jax.grad(functools.partial(value, jaxrnn.scan), argnums=(0, 1, 2))(*at)
        assert distance(got, wanted) < 1e-12


def test_integers_in_the_carry_may_pass_through_an_outer_scan():
    """There JAX hands over zeros of float0 for what has no gradient, where else it says so."""

    def step(w, carry, x):
        h, count = carry
        h = jnp.tanh(h * w + x)
        return (h, count + 1), h * count.astype(h.dtype)

    def value(loop, w, xs):
        start = (jnp.ones(I), jnp.asarray(0))
        (h, _), ys = jax.lax.scan(functools.partial(loop, step, w), start, xs)
        return jnp.sum(ys) + jnp.sum(h)

    at = jnp.ones(I), jnp.asarray(np.random.default_rng(0).standard_normal((3, T, I)))
    by_bptt, by_checkpointed, wanted = (
        jax.grad(functools.partial(value, loop), argnums=(0, 1))(*at)
        for loop in (jaxrnn.bptt, jaxrnn.checkpointed(), jaxrnn.scan)
    )
    assert distance(by_bptt, wanted) < 1e-12
    assert distance(by_checkpointed, wanted) < 1e-12


def test_a_step_closes_over_traced_values_under_vmap_of_grad():
    """Traced floats (with gradients of their own), integers, booleans and keys."""
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((T, I)))
    w = jnp.asarray(rng.standard_normal((3, I)))

    def value(loop, w, shift, flip, key):
        noise = jax.random.normal(key, (I,), w.dtype)

        def step(_, h, x):
            sign = jnp.where(flip, -1.0, 1.0).astype(w.dtype)
            key_noise = jax.random.normal(jax.random.fold_in(key, shift), (I,), w.dtype)
            h = jnp.tanh(sign * h * w + jnp.roll(x, shift) + noise + key_noise)
            return h, h * w

        carry, ys = loop(step, (), jnp.zeros(I), xs)
        return jnp.sum(ys) + jnp.sum(carry)

    rest = (jnp.arange(3), jnp.array([True, False, True]), jax.random.split(jax.random.key(0), 3))
    got, wanted = (
        jax.vmap(jax.grad(functools.partial(value, loop)))(w, *rest)
        for loop in (jaxrnn.bptt, jaxrnn.scan)
    )
    assert distance(got, wanted) < 1e-12
    jitted = jax.jit(jax.vmap(jax.grad(functools.partial(value, jaxrnn.bptt))))(w, *rest)
    assert distance(jitted, wanted) < 1e-12


def test_a_plain_step_is_linearised_once_for_all_time():
    """The derived gradient of a weight is one product over time and batch: no scan carries it."""
    cell = jaxrnn.gru(H)
    args = arguments(cell)

    def step(params, carry, x):
        return cell(params, carry, x)

    grad = jax.grad(functools.partial(loss, jaxrnn.bptt, step), argnums=(0, 1, 2))
    found = scans(jax.make_jaxpr(grad)(*args).jaxpr)
    carried = {shape for scan in found for shape in carried_shapes(scan)}
    assert not weight_shapes(cell, args[0]) & carried


def test_forward_mode_names_scan():
    cell = jaxrnn.elman(H)
    params, carry, xs = arguments(cell)
    for step in (cell, lambda params, carry, x: cell(params, carry, x)):
        with pytest.raises(TypeError, match=r"loop: got bptt .*expected loop=jaxrnn\.scan"):
            jax.jvp(lambda xs, step=step: jaxrnn.bptt(step, params, carry, xs), (xs,), (xs,))


def test_hessian_by_forward_over_reverse():
    cell = jaxrnn.gru(2)
    rng = np.random.default_rng(0)
    params, carry = (
        cell.init(jax.random.key(0), 2, jnp.float64),
        cell.initial_carry((), jnp.float64),
    )
    xs = jnp.asarray(rng.standard_normal((4, 2)))
    got, wanted = (
        jax.hessian(functools.partial(loss, loop, cell))(params, carry, xs)
        for loop in (jaxrnn.bptt, jaxrnn.scan)
    )
    assert distance(got, wanted) < 1e-12


@every_cell
def test_a_gradient_without_jit_compiles_once(cell_name):
    """A newcomer calls jax.grad eagerly: the second call must not compile the loop again."""
    cell = CELLS[cell_name](H)
    args = arguments(cell)
    grad = jax.grad(functools.partial(loss, jaxrnn.bptt, cell), argnums=(0, 1, 2))
    grad(*args)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        grad(*args)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled


@pytest.fixture
def short_chunks(monkeypatch):
    """As if the cache held no more than the projections of four steps."""
    short = {"whole_bytes": 0, "chunk_bytes": 1, "chunk_steps": 4}
    monkeypatch.setitem(backend.SETTINGS, "cpu", backend.SETTINGS["cpu"]._replace(**short))
    jax.clear_caches()
    yield
    jax.clear_caches()


def lengths_of_scans(function, *args):
    return [scan.params["length"] for scan in scans(jax.make_jaxpr(function)(*args).jaxpr)]


@pytest.mark.parametrize("plain", [False, True], ids=["cell", "plain step"])
@pytest.mark.parametrize("cell_name", often(CELLS, ("gru", "lru")))
def test_a_long_sequence_is_run_in_chunks(cell_name, plain, short_chunks):
    cell = CELLS[cell_name](H)
    step = cell.__call__ if plain else cell
    params, carry, xs = arguments(cell)
    xs = jnp.concatenate([xs, xs])[:24]
    assert lengths_of_scans(functools.partial(jaxrnn.bptt, step), params, carry, xs) == [6, 4]

    def gradients(loop):
        grad = jax.grad(functools.partial(loss, loop, step), argnums=(0, 1, 2))
        # Along xs held fixed: were it free, what a layer norm does not see of it would cancel.
        second = jax.grad(lambda x: jnp.vdot(grad(params, carry, x)[2], xs))(xs)
        return grad(params, carry, xs), second

    assert distance(gradients(jaxrnn.bptt), gradients(jaxrnn.scan)) < 1e-12


@pytest.mark.parametrize(
    ("steps", "chunk"),
    [(0, 0), (1, 1), (8, 4), (13, 13), (22, 2), (26, 2), (25, 5), (35, 5), (34, 2), (51, 3)],
)
def test_a_chunk_is_a_divisor_near_to_what_is_wanted(steps, chunk, short_chunks):
    cell = jaxrnn.elman(H)
    params, carry, _ = arguments(cell)
    xs = jnp.zeros((steps, B, I))
    _, ys = jaxrnn.bptt(cell, params, carry, xs)
    assert len(ys) == steps
    found = lengths_of_scans(functools.partial(jaxrnn.bptt, cell), params, carry, xs)
    assert found == ([steps] if chunk == steps else [steps // chunk, chunk])


@pytest.mark.optimized
def test_chunks_keep_neither_projections_nor_zeros_for_the_whole_sequence():
    """Many-to-one: c, h and four gates of each step, whatever else there is is a chunk's."""
    steps, batch, size = 4096, 16, 64
    cell = jaxrnn.lstm(size)
    params = cell.init(jax.random.key(0), 8)

    def last(params, xs):
        carry, _ = jaxrnn.bptt(cell, params, cell.initial_carry((batch,)), xs)
        return jnp.sum(cell.output(params, carry) ** 2)

    xs = jax.ShapeDtypeStruct((steps, batch, 8), jnp.float32)
    program = jax.jit(jax.grad(last)).lower(params, xs).compile()
    state = steps * batch * size * 4
    assert 6 * state < program.memory_analysis().temp_size_in_bytes < 7 * state


def test_what_has_no_gradient_goes_through_chunks(short_chunks):
    """A cell with its loss inside has the target, an integer, in the carry."""

    def nats(logits, tokens):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]

    with_loss = jaxrnn.transforms.step_loss(jaxrnn.lstm(H), jaxrnn.linear(3), nats)
    params = with_loss.init(jax.random.key(0), I, jnp.float64)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((24, B, I)))
    inputs = jaxrnn.transforms.StepLossInputs(xs, jnp.zeros((24, B), jnp.int32))

    def value(loop, params):
        carry, losses = loop(with_loss, params, with_loss.initial_carry((B,), jnp.float64), inputs)
        return jnp.sum(losses) + jnp.sum(carry[0].c)

    by_bptt, by_scan = (functools.partial(value, loop) for loop in (jaxrnn.bptt, jaxrnn.scan))
    assert lengths_of_scans(by_bptt, params) == [6, 4]
    assert distance(jax.grad(by_bptt)(params), jax.grad(by_scan)(params)) < 1e-12
