"""The character model, embedding -> cell -> readout, many-to-many, and what one does with it."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn.app.corpus import Segment
from jaxrnn.app.options import cell_named
from jaxrnn.types import Array, Carry, Layer, Loop, Network, Params

SCORED_AT_ONCE = 4096  # characters, so that a held-out text of any length fits into memory


class CharacterParams(NamedTuple):
    """The parameters of a character model, as any tuple of three is."""

    embedding: Params
    cell: Params
    readout: Params


def character_model(
    cell_name: str, hidden_size: int, embedding_size: int, vocabulary_size: int
) -> Network:
    """The model of V characters: tokens `(T, *batch, 1)` to logits `(T, *batch, V)`."""
    embedding = jaxrnn.embedding(embedding_size)

    def embedded(params: Params, tokens: Array) -> jax.Array:
        return embedding.apply(params, tokens[..., 0].astype(jnp.int32))

    cell, readout = cell_named(cell_name, hidden_size), jaxrnn.readout(vocabulary_size)
    return jaxrnn.stacked(Layer(embedding.init, embedded), cell, readout)


def segment_loss(
    model: Network, params: Params, carry: Carry, segment: Segment, loop: Loop = jaxrnn.bptt
) -> tuple[jax.Array, Carry]:
    """The mean of -log p(target | all before) over a segment, in nats, and the carry after it.

    It begins with the carry of the segment before; where streams begin, with zeros.
    """
    carry = jax.tree.map(lambda c: jnp.where(segment.first, 0, c), carry)
    tokens = segment.inputs[..., None]
    carry, logits = jaxrnn.unroll(model, params, tokens, carry, loop=loop)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return jaxrnn.mean_over_time(cross_entropy, logits, segment.targets), carry


def bits_per_character(model: Network, params: Params, tokens: np.ndarray) -> float:
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
    model: Network, params: Params, prompt: np.ndarray, temperature: float, key: jax.Array
) -> Iterator[int]:
    """Without end, the tokens that follow a prompt of at least one, a step of the model for each.

    They are drawn from softmax(logits / temperature): below 1 the likely become likelier.
    """

    def sampled(logits: jax.Array, key: jax.Array) -> jax.Array:
        logits = (logits - jnp.max(logits)) / temperature
        return jax.random.categorical(key, logits)[None].astype(jnp.int32)

    advance = jax.jit(jaxrnn.fed_back(model, sampled))
    carry = model.carry()
    for count, token in enumerate(prompt[:, None]):
        (carry, drawn), _ = advance(params, (carry, token), jax.random.fold_in(key, count))
    for count in itertools.count(len(prompt)):
        yield int(drawn[0])
        (carry, drawn), _ = advance(params, (carry, drawn), jax.random.fold_in(key, count))
