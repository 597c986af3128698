"""Damages each file of a checkpoint in each way, and prints how it is restored then."""

import json
import logging
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.training import Checkpoints, TrainState

DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "pickle": lambda content: pickle.dumps(Loud()),
    "a bit turned": lambda content: turn_bit(content, len(content) // 2),
    "the last bit turned": lambda content: turn_bit(content, len(content) - 1),
    "gone": None,
}


class Loud:
    """Ends the process where it is unpickled."""

    def __reduce__(self):
        return sys.exit, ("a pickle was read",)


def turn_bit(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def answer(folder, state):
    """How a checkpoint is restored; an AssertionError if it is in a wrong way."""
    with Checkpoints(folder) as checkpoints:
        try:
            restored, metadata, arrays = checkpoints.restore(state)
        except ValueError as error:
            is_clear = str(error).startswith(f"folder: got the checkpoint '{folder}/0' (")
            return "refused" if is_clear else str(error)
    assert metadata == ["½", 1]
    assert arrays["losses"].tolist() == [0.5, 0.25]
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    return "the same"


def main(folder):
    # Too many random bits to be compressed into the files of other arrays.
    params = {"w": jax.random.normal(jax.random.key(0), (40, 40)), "b": jnp.zeros(3)}
    state = TrainState(params, (), None, jnp.int32(0), jax.random.key(1))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state, metadata=["½", 1], arrays={"losses": np.array([0.5, 0.25])})
    answers = {}
    for path in sorted(path for path in (folder / "0").rglob("*") if path.is_file()):
        content = path.read_bytes()
        for name, damage in DAMAGES.items():
            path.unlink() if damage is None else path.write_bytes(damage(content))
            answers[f"{path.relative_to(folder)} {name}"] = answer(folder, state)
            path.write_bytes(content)
    print(json.dumps(answers))


if __name__ == "__main__":
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    main(Path(sys.argv[1]))
