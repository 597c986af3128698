"""Nothing waits for ever: jaxlib 0.10.1 deadlocks where a program calls LAPACK in two places.

Two independent calls with a batch each, on two cores, about every second process. So the library
calls none, which is read off every program that it compiles; and programs that hung are run, each
in a process of its own that has a time limit.
"""

import contextlib
import functools
import inspect
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import often

import jaxrnn
from jaxrnn.cli.main import main
from jaxrnn.diagnostics import linear_algebra

T, B, I, H = 3, 2, 3, 4
TIME_LIMIT = 240  # seconds; the longest takes about 20 with two cores to itself
# Calls out of a program that are no decompositions: how arrays lie over devices, and top_k.
HARMLESS = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "mhlo.topk"}


@pytest.fixture
def calls(tmp_path):
    """What the programs that are compiled inside of it call by name, outside of XLA."""

    @contextlib.contextmanager
    def recording():
        found = set()
        jax.clear_caches()  # or what was compiled before would not be seen
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        jax.config.update("jax_dump_ir_to", str(folder))
        try:
            yield found
        finally:
            jax.config.update("jax_dump_ir_to", None)
        programs = [path.read_text() for path in folder.rglob("*.mlir")]
        assert programs
        for program in programs:
            found.update(re.findall(r"custom_call[ (]*@?\"?([\w.$]+)", program))

    return recording


@pytest.mark.parametrize(
    "decomposed",
    [
        jnp.linalg.qr,
        jnp.linalg.svdvals,
        jnp.linalg.eigvalsh,
        jnp.linalg.cholesky,
        jnp.linalg.inv,
        lambda a: jax.scipy.linalg.solve_triangular(a, a),
        lambda a: jax.nn.initializers.orthogonal()(jax.random.key(0), a.shape),
    ],
)
def test_a_call_of_lapack_is_seen(calls, decomposed):
    with calls() as found:
        jax.jit(jax.vmap(decomposed))(jnp.ones((2, 3, 3)))
    assert found - HARMLESS


NETWORKS = {
    "stacked": lambda: jaxrnn.stacked(
        jaxrnn.lstm(H), jaxrnn.residual(jaxrnn.gru(H)), jaxrnn.linear(2)
    ),
    "bidirectional": lambda: jaxrnn.bidirectional(jaxrnn.gru(H), jaxrnn.elman(H)),
    "noisy": lambda: jaxrnn.stacked(
        jaxrnn.transforms.zoneout(jaxrnn.lstm(H), 0.1), jaxrnn.dropout(0.1)
    ),
}
# Their starts are made of the same functions as those of others.
SAME_STARTS = ("mlstm", "delta_rule", "conv_lstm", "cornn", "cfc")
STARTS = {**{name: functools.partial(make, H) for name, make in jaxrnn.CELLS}, **NETWORKS}


@pytest.mark.parametrize("name", often(STARTS, [n for n in STARTS if n not in SAME_STARTS]))
def test_no_start_calls_lapack(calls, name):
    with calls() as found:
        jax.block_until_ready(STARTS[name]().init(jax.random.key(0), I))
        ensemble = jax.jit(jax.vmap(lambda key: STARTS[name]().init(key, I, jnp.float64)))
        jax.block_until_ready(ensemble(jax.random.split(jax.random.key(0), 2)))
    assert found <= HARMLESS


CELL = jaxrnn.gru(H)


def loss(params, xs, loop=jaxrnn.bptt):
    return jnp.sum(jaxrnn.unroll(CELL, params, xs, loop=loop)[1] ** 2)


def found_of(params, xs, **probes):
    return jaxrnn.diagnostics.jacobian_spectrum(
        CELL, params, CELL.initial_carry((B,), jnp.float64), xs, **probes
    )


def diagnosed(params, xs):
    found = found_of(params, xs)
    gates = jaxrnn.diagnostics.saturation(jaxrnn.history(CELL, params, xs)[0])
    return jaxrnn.diagnostics.diagnose(
        jaxrnn.diagnostics.memory_horizon(found), spectrum=found, gates=gates
    )


# Each public diagnostic by its name, and what trains.


def with_loss(params, carry, x):
    carry, y = CELL(params, carry, x)
    return carry, jnp.mean(y**2, axis=-1)


QUESTIONS = {
    "gradient_flow": functools.partial(jaxrnn.diagnostics.gradient_flow, loss),
    "per_step_gradients": functools.partial(jaxrnn.diagnostics.per_step_gradients, loss),
    "saturation": lambda params, xs: jaxrnn.diagnostics.saturation(
        jaxrnn.history(CELL, params, xs)[0]
    ),
    "locate_nonfinite": functools.partial(jaxrnn.diagnostics.locate_nonfinite, loss),
    "jacobian_spectrum": jax.jit(found_of),
    "jacobian_spectrum, few probes": lambda p, xs: found_of(p, xs, probes=2, key=jax.random.key(0)),
    "memory_horizon": lambda params, xs: jaxrnn.diagnostics.memory_horizon(found_of(params, xs)),
    "truncation_bias": functools.partial(jaxrnn.diagnostics.truncation_bias, loss),
    "adaptive_truncation": functools.partial(jaxrnn.diagnostics.adaptive_truncation, loss),
    "diagnose": diagnosed,
    "newton_effort": lambda params, xs: jaxrnn.diagnostics.newton_effort(
        CELL,
        *(params, CELL.initial_carry((B,), jnp.float64), xs),
        loop=jaxrnn.parallel(jacobian="dense"),
    ),
    "fixed_points": lambda params, xs: jaxrnn.diagnostics.fixed_points(
        CELL, params, jnp.ones((B, H)), xs[0, 0]
    ),
    "parameter_influence": lambda params, xs: jaxrnn.diagnostics.parameter_influence(
        CELL, params, CELL.initial_carry((B,), jnp.float64), xs, name="w_h", index=(0, 1)
    ),
    "online_errors": lambda params, xs: jaxrnn.diagnostics.online_errors(
        {"snap": jaxrnn.online.snap(with_loss)}, params, CELL.initial_carry((B,), jnp.float64), xs
    ),
    "certify": lambda params, xs: jaxrnn.certify(CELL),
    "memory_plan": functools.partial(
        jaxrnn.diagnostics.memory_plan, loss, loops=(("bptt", jaxrnn.bptt),)
    ),
    "trainer": lambda params, xs: jaxrnn.training.trainer(
        lambda params, carry, xs, key: (loss(params, xs), (carry, {})), optax.adam(0.1)
    ).init(params, jax.random.key(0)),
}


def test_every_diagnostic_is_asked():
    public = vars(jaxrnn.diagnostics).items()
    here = {name for name, value in public if inspect.isfunction(value)}
    assert here >= {"jacobian_spectrum", "gradient_flow", "diagnose"}
    assert here <= QUESTIONS.keys()


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_calls_lapack(calls, name):
    params = CELL.init(jax.random.key(0), I, jnp.float64)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((T, B, I)))
    with calls() as found:
        QUESTIONS[name](params, xs)
    assert found <= HARMLESS


def test_no_command_calls_lapack(calls, tmp_path):
    options = ("--hidden-size", "3", "--steps", "4", "--out", str(tmp_path / "seen.svg"))
    with calls() as found:
        assert main(["inspect", "lstm", *options]) == 0
    assert found <= HARMLESS


BEGIN = """
import functools, os, sys
if hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))[:int(sys.argv[1])]
    os.sched_setaffinity(0, cores)
import jax, jax.numpy as jnp, jaxrnn, optax
T, B = 24, 16

def split(seed, size):
    return jax.random.split(jax.random.key(seed), size)
"""
PROGRAMS = {
    "an ensemble of starts": """
cell = jaxrnn.lstm(64)
init = jax.jit(jax.vmap(lambda key: cell.init(key, 64)))
for seed in range(40):
    jax.block_until_ready(init(split(seed, 8)))
""",
    "an ensemble of stacks": """
net = jaxrnn.stacked(jaxrnn.lstm(64), jaxrnn.residual(jaxrnn.gru(64)), jaxrnn.linear(2))
init = jax.jit(jax.vmap(lambda key: net.init(key, 16)))
for seed in range(30):
    jax.block_until_ready(init(split(seed, 8)))
""",
    "16 trainings from their starts on": """
net = jaxrnn.stacked(jaxrnn.lstm(32), jaxrnn.gru(32))

def loss(params, carry, xs, key):
    carry, ys = jaxrnn.unroll(net, params, xs, carry=carry)
    return jnp.mean(ys**2), (carry, {})

trainer = jaxrnn.training.trainer(loss, optax.adam(1e-2))

@jax.jit
@jax.vmap
def trained(key):
    state = trainer.init(net.init(key, 4), key, carry=net.initial_carry((2,)))
    return jax.lax.scan(trainer.update, state, jnp.ones((5, 8, 2, 4)))[1]

for seed in range(10):
    jax.block_until_ready(trained(split(seed, 16)))
""",
    "a spectrum": """
cell = jaxrnn.gru(256)
params = cell.init(jax.random.key(0), 16)
xs = jax.random.normal(jax.random.key(1), (T, B, 16))
spectrum = jaxrnn.diagnostics.jacobian_spectrum
found = jax.jit(functools.partial(spectrum, cell, probes=32, key=jax.random.key(2)))
jax.block_until_ready(found(params, cell.initial_carry((B,)), xs))
""",
    "two spectra in one program": """
first, second = jaxrnn.gru(64), jaxrnn.lstm(32)

@jax.jit
def found(key, xs):
    p, q = first.init(key, 16), second.init(key, 64)
    _, ys = jaxrnn.unroll(first, p, xs)
    probes = {"probes": 16, "key": key}
    spectrum = jaxrnn.diagnostics.jacobian_spectrum
    return (spectrum(first, p, first.initial_carry((B,)), xs, **probes),
            spectrum(second, q, second.initial_carry((B,)), ys, **probes))

for seed in range(2):
    jax.block_until_ready(found(jax.random.key(seed), jnp.ones((T, B, 16))))
""",
    "an ensemble of spectra": """
cell = jaxrnn.elman(32)

@jax.jit
@jax.vmap
def found(key):
    xs = jax.random.normal(key, (T, 2, 8))
    spectrum = jaxrnn.diagnostics.jacobian_spectrum
    return spectrum(cell, cell.init(key, 8), cell.initial_carry((2,)), xs, probes=8, key=key)

for seed in range(2):
    jax.block_until_ready(found(split(seed, 8)))
""",
}


def finishes(code, cores, *arguments):
    """Run a program on so many cores; it is compiled with little optimisation, which is quicker."""
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "MPLBACKEND": "Agg"}
    command = [sys.executable, "-c", BEGIN + code, str(cores), *arguments]
    subprocess.run(command, check=True, timeout=TIME_LIMIT, env=env)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_finishes(name, cores):
    finishes(PROGRAMS[name], cores)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_command_finishes(tmp_path, cores):
    code = "from jaxrnn.cli.main import main; sys.exit(main(sys.argv[2:]))"
    options = ("--hidden-size", "16", "--steps", "5", "--out", str(tmp_path / "seen.svg"))
    finishes(code, cores, "inspect", "elman", *options)
    assert (tmp_path / "seen.svg").exists()


def test_decompositions_of_no_number_end():
    """Their loops end by a comparison, which is false of NaN, and by a count."""
    a = jnp.full((3, 4), jnp.nan)
    assert np.isnan(linear_algebra.singular_values(a)).all()
    assert np.isnan(linear_algebra.qr(a.T)[0]).all()
