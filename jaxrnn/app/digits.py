"""`jaxrnn train digits`: handwritten digits, read to the last inked pixel and named there.

The rows of a batch have lengths of their own: nothing follows the last ink but padding.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxrnn
from jaxrnn.app import run, training
from jaxrnn.app.options import Parser, UserError, cell_named
from jaxrnn.types import Array, Carry, Loop, Params

CLASSES = 10
BRIGHTEST = 16  # of a pixel in scikit-learn's digits


class Digits(NamedTuple):
    """Images as sequences, and what they show.

    Fields:
        pixels: `(64, B, 1)`, row after row, from 0 to 1.
        lengths: `(B,)`, how many pixels there are up to the last one with ink.
        labels: `(B,)`, from 0 to 9.
    """

    pixels: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class DigitModel(NamedTuple):
    """A many-to-one model, as pure functions.

    Fields:
        init: `key -> params`.
        logits: `(params, pixels (T, B, 1), lengths (B,), loop=bptt) -> (B, 10)`.
    """

    init: Callable[[jax.Array], Params]
    logits: Callable[..., jax.Array]


def add_train_options(parser: Parser) -> None:
    """The options of `jaxrnn train digits`."""
    training.add_options(
        parser, "digits", hidden_size=128, batch_size=64, steps=1000, learning_rate=0.005
    )


def train(options: run.Options) -> None:
    """Learn the digits, save the run, and print the accuracy on the held-out fifth."""
    model, held_out = digit_model(options.cell, options.hidden_size), load()[1]
    params = training.train(task(options), options)
    _, accuracy = jax.jit(functools.partial(score, model))(params, held_out)
    print(f"accuracy on the {len(held_out.labels)} digits held out: {float(accuracy):.1%}")
    print(f"saved in {options.out}: {', '.join(run.FILES)}")


def load() -> tuple[Digits, Digits]:
    """scikit-learn's 1,797 digits in two parts, four fifths to train on and one held out.

    Always the same, and each digit in the same proportion in both.
    """
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    training_images, held_out_images, training_labels, held_out_labels = parts
    return _digits(training_images, training_labels), _digits(held_out_images, held_out_labels)


def digit_model(cell_name: str, hidden_size: int) -> DigitModel:
    """Cell -> readout of each row's last state, its params a dict of `cell` and `readout`."""
    cell, readout = cell_named(cell_name, hidden_size), jaxrnn.readout(CLASSES)

    def init(key: jax.Array) -> Params:
        key_cell, key_readout = jax.random.split(key)
        of_cell = cell.init(key_cell, input_size=1)
        features = cell.output(of_cell, cell.carry()).size
        return {"cell": of_cell, "readout": readout.init(key_readout, features)}

    def logits(
        params: Params, pixels: Array, lengths: Array, loop: Loop = jaxrnn.bptt
    ) -> jax.Array:
        carry, _ = jaxrnn.unroll(cell, params["cell"], pixels, lengths=lengths, loop=loop)
        return readout.apply(params["readout"], cell.output(params["cell"], carry))

    return DigitModel(init, logits)


def score(
    model: DigitModel, params: Params, digits: Digits, loop: Loop = jaxrnn.bptt
) -> tuple[jax.Array, jax.Array]:
    """The mean of -log p(label | pixels), in nats, and the share of digits read right."""
    logits = model.logits(params, digits.pixels, digits.lengths, loop)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, digits.labels)
    return jnp.mean(nats), jnp.mean(jnp.argmax(logits, axis=-1) == digits.labels)


def batches(digits: Digits, batch_size: int, seed: int) -> Iterator[Digits]:
    """Without end, batches of digits in an order that is drawn anew for each pass over them.

    What does not fill a batch is left out of that pass. UserError if that is everything.
    """
    count = len(digits.labels)
    if batch_size > count:
        raise UserError(f"--batch-size: got {batch_size}, expected at most {count}")
    return _passes(digits, batch_size, np.random.default_rng(seed))


def _passes(digits: Digits, batch_size: int, draws: np.random.Generator) -> Iterator[Digits]:
    """The batches themselves, once their size is known to fit."""
    count = len(digits.labels)
    while True:
        order = draws.permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield Digits(digits.pixels[:, chosen], digits.lengths[chosen], digits.labels[chosen])


def task(options: run.Options) -> training.Task:
    """Whole sequences, each begun with the zero carry, so that none is handed on."""
    model = digit_model(options.cell, options.hidden_size)

    def loss(
        params: Params, carry: Carry, batch: Digits, key: jax.Array, loop: Loop
    ) -> training.Loss:
        nats, accuracy = score(model, params, batch, loop)
        return nats, (carry, {"accuracy": accuracy})

    return training.Task(
        init=model.init,
        carry=None,
        loss=loss,
        batches=batches(load()[0], options.batch_size, options.seed),
        items=options.batch_size,
        unit="digit",
        measure="accuracy",
        title=f"Learning to read digits: {options.cell} of {options.hidden_size}, {options.loop}",
        levels={"guessing": 1 / CLASSES},
    )


def _digits(images: np.ndarray, labels: np.ndarray) -> Digits:
    """Images `(B, 64)` as scikit-learn has them, as sequences."""
    pixels = images.T[..., None] / BRIGHTEST
    lengths = np.max(np.where(images > 0, np.arange(1, images.shape[1] + 1), 0), axis=1)
    return Digits(pixels.astype(np.float32), lengths.astype(np.int32), labels.astype(np.int32))
