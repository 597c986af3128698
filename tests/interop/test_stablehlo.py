"""Exported programs: loaded where there is no jaxrnn, they compute the same bits."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.interop import stablehlo

# The check of shapes in signatures takes an open size for no int.
pytestmark = pytest.mark.usefixtures("own_messages")


@pytest.fixture(autouse=True)
def _strict():
    """In the place of the fixture of this name: float32 and int32, as JAX's users have it."""


NETWORKS = {
    "tokens": jaxrnn.stacked(jaxrnn.embedding(4), jaxrnn.lstm(3), jaxrnn.dropout(0.5)),
    "deep": jaxrnn.stacked(jaxrnn.gru(4), jaxrnn.residual(jaxrnn.elman(4)), jaxrnn.linear(2)),
    "linear": jaxrnn.min_gru(4),
}
I, B, T = 5, 3, 7


def inputs(network, steps=T, rows=B):
    key = jax.random.key(1)
    if network.num_feature_axes == 0:
        return jax.random.randint(key, (steps, rows), 0, I)
    return jax.random.normal(key, (steps, rows, I), jnp.float32)


def wanted(network, params, xs):
    """The last carry and the outputs; the carry is an argument, so that XLA folds no zeros."""

    def run(params, carry, xs):
        return jaxrnn.unroll(network, params, xs, carry=carry, loop=jaxrnn.scan)

    carry = network.initial_carry(xs.shape[1:2], jnp.float32)
    last, ys = jax.jit(run)(params, carry, xs)
    return jax.tree.leaves(last), ys


def wanted_steps(network, params, xs):
    """The same, by the step alone, which XLA fuses in another way than in a loop."""

    def one(params, carry, x):  # a new function, so that it is compiled as this test asks
        return network(params, carry, x)

    step, ys = jax.jit(one), []
    carry = network.initial_carry(xs.shape[1:2], jnp.float32)
    for x in xs:
        carry, y = step(params, carry, x)
        ys.append(y)
    return np.stack(ys)


def close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


FIXED = {"batch": B, "steps": T}


@pytest.mark.parametrize(
    ("bake", "sizes"),
    [
        pytest.param(False, {}, id="open"),
        pytest.param(True, FIXED, id="fixed", marks=pytest.mark.optimized),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_programs_compute_the_same(name, bake, sizes):
    """To the bit where sizes are fixed."""
    network = NETWORKS[name]
    params = network.init(jax.random.key(0), I, jnp.float32)
    programs = {
        name: jax.export.deserialize(program.serialize())
        for name, program in stablehlo.write(network, params, bake=bake, **sizes).items()
    }
    assert [*programs] == ["start", "step", "sequence"]
    assert {program.platforms for program in programs.values()} == {("cpu", "cuda", "tpu")}
    first = () if bake else (jaxrnn.tree.leaves_by_name(params),)
    step, sequence = (jax.jit(programs[name].call) for name in ("step", "sequence"))
    same = equal if sizes else close
    for steps, rows in ((T, B),) if sizes else ((T, B), (2, 16)):
        xs = inputs(network, steps, rows)
        carry = programs["start"].call(*first, xs[0])
        same(sequence(*first, carry, xs), wanted(network, params, xs))
        for x, y in zip(xs, wanted_steps(network, params, xs), strict=True):
            carry, got = step(*first, carry, x)
            same(got, y)


def test_a_sequence_goes_on_from_its_carry():
    network = NETWORKS["deep"]
    params = network.init(jax.random.key(0), I, jnp.float32)
    programs = stablehlo.write(network, params)
    xs = inputs(network)
    last, ys = programs["sequence"].call(programs["start"].call(xs[0]), xs)
    carry, first = programs["sequence"].call(programs["start"].call(xs[0]), xs[:3])
    again, second = programs["sequence"].call(carry, xs[3:])
    close((again, np.concatenate([first, second])), (last, ys))


def test_a_network_that_reads_backward_has_no_step():
    network = jaxrnn.stacked(jaxrnn.bidirectional(jaxrnn.gru(3)), jaxrnn.linear(2))
    params = network.init(jax.random.key(0), I, jnp.float32)
    programs = stablehlo.write(network, params)
    assert [*programs] == ["start", "sequence"]
    xs = inputs(network)
    got = programs["sequence"].call(programs["start"].call(xs[0]), xs)
    close(got, wanted(network, params, xs))


ALONE = """
import json, sys
sys.modules["jaxrnn"] = None  # any import of it is an error
import jax, numpy as np, safetensors.numpy
folder, given = sys.argv[1], sys.argv[2] == "given"
def program(name):
    content = open(f"{folder}/{name}.jaxexport", "rb").read()
    return jax.export.deserialize(bytearray(content)).call
params = [safetensors.numpy.load_file(f"{folder}/params.safetensors")] if given else []
xs = np.load(f"{folder}/xs.npy")
carry = program("start")(*params, xs[0])
step, ys = jax.jit(program("step")), []
_, whole = jax.jit(program("sequence"))(*params, carry, xs)
for x in xs:
    carry, y = step(*params, carry, x)
    ys.append(y)
np.save(f"{folder}/steps.npy", np.stack(ys))
np.save(f"{folder}/whole.npy", whole)
"""


@pytest.mark.optimized
@pytest.mark.parametrize("how", ["baked", "given"])
def test_exported_files_run_in_a_process_without_jaxrnn(tmp_path, how, capsys):
    from jaxrnn.cli.main import main
    from jaxrnn.interop import safetensors

    network = NETWORKS["deep"]
    params = network.init(jax.random.key(0), I, jnp.float32)
    safetensors.save(tmp_path / "network.safetensors", network, params)
    out = tmp_path / "out"
    ask = ["export", tmp_path / "network.safetensors", "--params", how, "--out", out]
    ask += ["--batch-size", B, "--steps", T]
    assert main([*map(str, ask)]) == 0
    said = capsys.readouterr().out
    assert all(path.name in said for path in out.iterdir())
    signature = json.loads((out / "signature.json").read_text())
    assert signature["programs"]["start"]["results"] == "[float32[3,4], float32[3,4]]"
    xs = inputs(network)
    np.save(out / "xs.npy", xs)
    command = [sys.executable, "-c", ALONE, str(out), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    _, ys = wanted(network, params, xs)
    np.testing.assert_array_equal(np.load(out / "whole.npy"), ys)
    np.testing.assert_array_equal(np.load(out / "steps.npy"), wanted_steps(network, params, xs))


def test_what_cannot_be_exported_is_refused():
    with pytest.raises(TypeError, match="network: got function, expected a Part"):
        stablehlo.write(len_of, {})
    params = jaxrnn.gru(4).init(jax.random.key(0), I)
    with pytest.raises(ValueError, match="batch: got 0, expected an int of at least 1"):
        stablehlo.write(jaxrnn.gru(4), params, batch=0)
    with pytest.raises(ValueError, match=r"params: got the shapes .*, expected those of gru\(4\)"):
        stablehlo.write(jaxrnn.gru(4), jaxrnn.elman(4).init(jax.random.key(0), I))


def len_of(params, carry, x):
    return carry, x
