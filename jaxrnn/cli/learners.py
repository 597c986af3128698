"""`--learner`: training on a text by an online algorithm, through all the past of each stream."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from jaxrnn import online
from jaxrnn.cli import corpus, options
from jaxrnn.expression import Expression
from jaxrnn.online import Learner
from jaxrnn.training import Trainer, TrainState
from jaxrnn.training.trainers import Metrics
from jaxrnn.types import Carry, Key, Network, Params, Step, StepResult

Tokens = tuple[jax.Array, jax.Array]  # inputs and targets

LEARNERS: dict[str, Callable[..., Learner]] = dict(online.LEARNERS)
NAMES = "rtrl, snap, snap:ORDER, eprop, uoro"


def learner_named(name: str, step: Step) -> Learner:
    """Returns the learner with a name among `NAMES`; UserError if there is none."""
    family, *rest = _parse(learner_name(name))
    return LEARNERS[family](step, *map(int, rest))


def _parse(name: str) -> list[str]:
    family, *rest = name.split(":")
    is_order = family == "snap" and len(rest) == 1 and int(rest[0]) >= 1
    if family not in LEARNERS or (rest and not is_order):
        raise ValueError(name)
    return [family, *rest]


learner_name = options.option_type(str, _parse, f"one of {NAMES}, with a whole number from 1")


@dataclasses.dataclass(frozen=True, repr=False)
class TokenLoss(Expression):
    """The step of a language model whose output is its loss: -log p(target), in nats."""

    network: Network

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the zero state of the network."""
        return self.network.initial_carry(batch_shape, dtype)

    def __call__(self, params: Params, carry: Carry, x: Tokens) -> StepResult:
        """Runs one step on inputs and targets `(*batch)`."""
        inputs, targets = x
        carry, logits = self.network(params, carry, inputs)
        return carry, optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def trainer(
    learner: Learner, optimizer: optax.GradientTransformation, tokens: jax.ShapeDtypeStruct
) -> Trainer:
    """Returns a trainer with an update for each segment of a text; its batch is a `Segment`.

    `tokens` is the shape `(T, B)` of a segment. With it the state has all its arrays at once, so
    that a checkpoint of any update has the same ones.
    """
    online_trainer: Any = online.trainer(learner, optimizer)

    def init(params: Params, key: Key, carry: Carry = None) -> TrainState:
        return online_trainer.init(params, key, carry, (tokens, tokens))

    def update(state: TrainState, segment: corpus.Segment) -> tuple[TrainState, Metrics]:
        reset = jnp.zeros(tokens.shape, bool).at[:1].set(segment.first)
        inputs = online.OnlineInputs((segment.inputs, segment.targets), reset=reset)
        state, metrics = online_trainer.update(state, inputs)
        return state, {**metrics, "bits_per_character": metrics["loss"] / np.log(2)}

    return Trainer(init, update)
