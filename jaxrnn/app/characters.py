"""The character model, embedding -> cell -> readout, many-to-many, and what one does with it."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn.app.corpus import Segment
from jaxrnn.app.options import cell_named
from jaxrnn.types import Array, Carry, Loop, Params, Step

SCORED_AT_ONCE = 4096  # characters, so that a held-out text of any length fits into memory


class CharacterModel(NamedTuple):
    """A model of the next character, as pure functions.

    Fields:
        init: `key -> params`.
        carry: `batch_shape -> carry`, the zero state.
        step: `(params, carry, tokens (*batch)) -> (carry, logits (*batch, V))`.
        unroll: `(params, carry, tokens (T, *batch), loop=bptt) -> (carry, logits (T, *batch, V))`,
            the same over time.
    """

    init: Callable[[jax.Array], Params]
    carry: Callable[..., Carry]
    step: Step
    unroll: Callable[..., tuple[Carry, jax.Array]]


def character_model(
    cell_name: str, hidden_size: int, embedding_size: int, vocabulary_size: int
) -> CharacterModel:
    """The model of V characters, its params a dict of `embedding`, `cell` and `readout`."""
    embedding = jaxrnn.embedding(embedding_size)
    cell = cell_named(cell_name, hidden_size)
    readout = jaxrnn.readout(vocabulary_size)

    def init(key: jax.Array) -> Params:
        key_embedding, key_cell, key_readout = jax.random.split(key, 3)
        of_cell = cell.init(key_cell, embedding_size)
        features = cell.output(of_cell, cell.carry()).size
        return {
            "embedding": embedding.init(key_embedding, vocabulary_size),
            "cell": of_cell,
            "readout": readout.init(key_readout, features),
        }

    def step(params: Params, carry: Carry, tokens: Array) -> tuple[Carry, jax.Array]:
        x = embedding.apply(params["embedding"], tokens)
        carry, y = cell(params["cell"], carry, x)
        return carry, readout.apply(params["readout"], y)

    def unroll(
        params: Params, carry: Carry, tokens: Array, loop: Loop = jaxrnn.bptt
    ) -> tuple[Carry, jax.Array]:
        xs = embedding.apply(params["embedding"], tokens)
        carry, ys = jaxrnn.unroll(cell, params["cell"], xs, carry, loop=loop)
        return carry, readout.apply(params["readout"], ys)

    return CharacterModel(init, cell.carry, step, unroll)


def segment_loss(
    model: CharacterModel, params: Params, carry: Carry, segment: Segment, loop: Loop = jaxrnn.bptt
) -> tuple[jax.Array, Carry]:
    """The mean of -log p(target | all before) over a segment, in nats, and the carry after it.

    It begins with the carry of the segment before; where streams begin, with zeros.
    """
    carry = jax.tree.map(lambda c: jnp.where(segment.first, 0, c), carry)
    carry, logits = model.unroll(params, carry, segment.inputs, loop)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return jaxrnn.mean_over_time(cross_entropy, logits, segment.targets), carry


def bits_per_character(model: CharacterModel, params: Params, tokens: np.ndarray) -> float:
    """The mean bits of all tokens but the first, as one stream, its carry handed on to the end."""
    loss = jax.jit(functools.partial(segment_loss, model))
    inputs, targets = tokens[:-1], tokens[1:]
    carry, nats = model.carry(), 0.0
    for start in range(0, len(targets), SCORED_AT_ONCE):
        at = slice(start, start + SCORED_AT_ONCE)
        mean, carry = loss(params, carry, Segment(inputs[at], targets[at], np.bool_(start == 0)))
        nats += float(mean) * len(targets[at])
    return nats / len(targets) / math.log(2)


def generate(
    model: CharacterModel, params: Params, prompt: np.ndarray, temperature: float, key: jax.Array
) -> Iterator[int]:
    """Without end, the tokens that follow a prompt of at least one, a step of the model for each.

    They are drawn from softmax(logits / temperature): below 1 the likely become likelier.
    """

    def sampled(logits: jax.Array, key: jax.Array) -> jax.Array:
        logits = (logits - jnp.max(logits)) / temperature
        return jax.random.categorical(key, logits).astype(jnp.int32)

    advance = jax.jit(jaxrnn.fed_back(model.step, sampled))
    carry = model.carry()
    for count, token in enumerate(prompt):
        (carry, drawn), _ = advance(params, (carry, token), jax.random.fold_in(key, count))
    for count in itertools.count(len(prompt)):
        yield int(drawn)
        (carry, drawn), _ = advance(params, (carry, drawn), jax.random.fold_in(key, count))
