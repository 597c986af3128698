"""Checkpoints: what is saved is restored to the bit, and anything else is refused."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.training import Checkpoints, TrainState
from jaxrnn.training import checkpoints as module


@pytest.fixture(autouse=True)
def _strict():
    """In the place of the fixture of this name: float32, and optax's Adam may promote."""


NETWORK = jaxrnn.stacked(jaxrnn.lstm(3), jaxrnn.dropout(0.1), jaxrnn.linear(2))
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01))


def loss(params, carry, batch, key):
    carry, ys = jaxrnn.unroll(NETWORK, params, batch, carry=carry, key=key)
    return jnp.mean(ys**2), (carry, {})


TRAINER = jaxrnn.training.trainer(loss, OPTIMIZER)
update = jax.jit(TRAINER.update, donate_argnums=0)


def new_state(optimizer=OPTIMIZER, network=NETWORK):
    params = network.init(jax.random.key(0), 4)
    trainer = jaxrnn.training.trainer(loss, optimizer)
    return trainer.init(params, jax.random.key(1), network.initial_carry((2,)))


def batch(number):
    return jax.random.normal(jax.random.key(number), (5, 2, 4))


def advanced(state, start, end):
    losses = []
    for number in range(start, end):
        state, metrics = update(state, batch(number))
        losses.append(float(metrics["loss"]))
    return state, losses


def bits(tree):
    """Each leaf as its dtype, shape and bytes; keys as their data."""

    def of_leaf(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return str(x.dtype), bits(jax.random.key_data(x))
        return str(x.dtype), x.shape, np.asarray(x).tobytes()

    return [of_leaf(x) for x in jax.tree.leaves(tree)]


def open_at(folder, **options):
    options = {"network": NETWORK, "optimizer": "adamw(0.01)", **options}
    return Checkpoints(folder / "checkpoints", **options)


def test_a_training_goes_on_to_the_bit(tmp_path):
    state, losses = advanced(new_state(), 0, 3)
    with open_at(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None
        checkpoints.save(
            state, metadata={"position": 3}, arrays={"b": jnp.zeros(2), "a": np.array(losses)}
        )
        state, more = advanced(state, 3, 6)  # donates what was saved, while it is written
    with open_at(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 3
        assert checkpoints.metadata() == {"position": 3}
        restored, metadata, arrays = checkpoints.restore(new_state())
    assert metadata == {"position": 3}
    assert [*arrays] == ["b", "a"]
    assert arrays["a"].tolist() == losses
    assert isinstance(restored, TrainState)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    again, same = advanced(restored, 3, 6)
    assert bits(again) == bits(state)
    assert same == more


def test_the_last_ones_are_kept_and_any_can_be_restored(tmp_path):
    state, seen = new_state(), {}
    with open_at(tmp_path, keep=2) as checkpoints:
        for number in range(4):
            state, _ = advanced(state, number, number + 1)
            seen[number + 1] = bits(state)
            checkpoints.save(state)
        checkpoints.wait()
        assert checkpoints.steps == [3, 4]
        assert bits(checkpoints.restore(new_state(), step=3).state) == seen[3]
        assert bits(checkpoints.restore(new_state()).state) == seen[4]
        with pytest.raises(ValueError, match=r"step: got 1, expected one of \[3, 4\]"):
            checkpoints.restore(new_state(), step=1)
        with pytest.raises(ValueError, match=r"state.step: got 0, expected one after 4, the last"):
            checkpoints.save(new_state())
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


EVERY_DTYPE = {
    "bfloat16": jnp.arange(3, dtype=jnp.bfloat16),
    "float8": jnp.ones((2, 2), jnp.float8_e4m3fn),
    "complex": jnp.full((2,), 1 + 2j, jnp.complex64),
    "bool": jnp.array([True, False]),
    "int8": jnp.array(-3, jnp.int8),
    "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
    "empty": jnp.zeros((0, 3)),
    "float64": np.array([1 / 3, 1e300]),
    "number": np.float64(1 / 3),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2),
    "none": None,
    "path/with.dots": (jnp.ones(1), [jnp.zeros(1)], {}),
    "weird ½": 2.5,
}


def test_every_dtype_comes_back(tmp_path):
    state = new_state()._replace(carry=EVERY_DTYPE)
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(state).state
        structs = jax.eval_shape(lambda state: state, state)
        structs.carry["float64"] = state.carry["float64"]  # JAX has no float64 here
        of_struct = checkpoints.restore(structs).state
    for got in (restored, of_struct):
        assert bits(got) == bits(jaxrnn.tree.to_arrays("state", state))
        assert jax.random.key_impl(got.carry["keys"]) == "rbg"
        assert isinstance(got.carry["key"], jax.Array)


def wider():
    return new_state(network=jaxrnn.stacked(jaxrnn.lstm(5), jaxrnn.dropout(0.1), jaxrnn.linear(2)))


MISMATCHES = [
    (
        {"network": jaxrnn.gru(3)},
        new_state,
        r"network: got 'stacked\(lstm\(3\), .*', expected 'gru",
    ),
    ({"optimizer": "sgd(0.1)"}, new_state, r"optimizer: got 'adamw\(0.01\)' in the .*sgd\(0.1\)'"),
    ({}, wider, r"state.params\[0\]\['b'\]: got float32\[12\] in .*/3', expected float32\[20\]"),
    ({}, lambda: new_state(optax.adam(0.01)), r"state.opt_state\[0\]: got EmptyState in .*, exp"),
    (
        {},
        lambda: new_state(optax.sgd(0.01)),
        r"state.opt_state\[1\]: got tuple in .*, expected EmptyState",
    ),
    (
        {},
        lambda: new_state(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))),
        r"state.opt_state\[1\]\[2\]: got EmptyState in .*, expected nothing",
    ),
    ({}, lambda: new_state()._replace(carry=None), r"state.carry: got tuple in .* NoneType"),
    (
        {},
        lambda: new_state()._replace(key=jax.random.key(0, impl="rbg")),
        r"state.key: got key<fry>\[\] in .*, expected key<rbg>\[\]",
    ),
]


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize(("options", "like", "message"), MISMATCHES, ids=itertools.count())
def test_another_training_is_refused_and_the_first_difference_is_named(
    tmp_path, options, like, message
):
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(advanced(new_state(), 0, 3)[0])
    with open_at(tmp_path, **options) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(like())


def test_another_version_is_refused(tmp_path, monkeypatch):
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(new_state())
        checkpoints.wait()
        monkeypatch.setattr(module, "__version__", "9.9")
        with pytest.raises(ValueError, match=r"version: got '.*' in the checkpoint .*'9.9'"):
            checkpoints.restore(new_state())


def test_what_is_no_state_and_no_json_is_refused(tmp_path, own_messages):
    with open_at(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="state: got dict, expected a TrainState"):
            checkpoints.save({})
        with pytest.raises(TypeError, match=r"metadata: got .*, expected a JSON value"):
            checkpoints.save(new_state(), metadata={1, 2})
        with pytest.raises(TypeError, match=r"arrays\['x'\]: got str, expected an array"):
            checkpoints.save(new_state(), arrays={"x": "text"})
        with pytest.raises(ValueError, match=r"folder: got '.*' without checkpoints, expected"):
            checkpoints.restore(new_state())
    with pytest.raises(ValueError, match="keep: got 0, expected an int of at least 1"):
        Checkpoints(tmp_path, keep=0)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"folder: got '.*below' .*, expected a folder in which"):
        Checkpoints(tmp_path / "file" / "below")
    with pytest.raises(OSError, match=r"folder: got '.*file' .*, expected a folder in which"):
        Checkpoints(tmp_path / "file")


def test_a_damaged_checkpoint_is_refused_or_restored_to_the_bit(tmp_path):
    """In a process of its own, since tensorstore's callbacks outlive their event loops."""
    program = [sys.executable, Path(__file__).parent / "damaged_checkpoints.py", tmp_path]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    counts = Counter(answers.values())
    assert counts["refused"] > 15, answers
    assert counts.keys() == {"refused", "the same"}, answers


def test_arrays_come_back_on_their_devices(tmp_path):
    """And stay uncommitted where they were, so that JAX may move them."""
    (device,) = jax.devices()[:1]
    state = new_state()
    placed = state._replace(params=jax.device_put(state.params, device))
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(placed).state
    assert all(leaf.committed for leaf in jax.tree.leaves(restored.params))
    others = restored.opt_state, restored.carry, restored.step, restored.key
    assert not any(leaf.committed for leaf in jax.tree.leaves(others))
