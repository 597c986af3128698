"""`jaxrnn train digits`: handwritten digits, read to the last inked pixel and named there.

The rows of a batch have lengths of their own: nothing follows the last ink but padding.
"""

from collections import namedtuple
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxrnn
from jaxrnn.app import options, training
from jaxrnn.types import Carry, Loop, Network, Params

ABOUT = "handwritten digits read pixel by pixel, many-to-one"
DEFAULTS = {"hidden_size": 128, "batch_size": 64, "steps": 1000, "learning_rate": 0.005}
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


# The parameters of the two parts of `digit_model`.
DigitParams = namedtuple("DigitParams", ("cell", "readout"))


def add_train_options(parser: options.Parser) -> None:
    """The options of `jaxrnn train digits`."""
    training.add_options(parser, "digits", **DEFAULTS)


def train(chosen: options.Options) -> None:
    """Learn the digits, save the run, and print the accuracy on the held-out fifth."""
    model, held_out = digit_model(chosen.cell, chosen.hidden_size), load()[1]
    params = training.train(task(chosen), chosen)
    _, (_, metrics) = jax.jit(score, static_argnums=0)(model, params, None, held_out)
    print(f"accuracy on the {len(held_out.labels)} digits held out: {metrics['accuracy']:.1%}")


def load() -> tuple[Digits, Digits]:
    """scikit-learn's 1,797 digits in two parts, four fifths to train on and one held out.

    Always the same, and each digit in the same proportion in both.
    """
    images, labels = load_digits(return_X_y=True)
    pixels = (images.T[..., None] / BRIGHTEST).astype(np.float32)
    lengths = np.max(np.where(images > 0, np.arange(1, images.shape[1] + 1), 0), axis=1)
    digits = Digits(pixels, lengths.astype(np.int32), labels.astype(np.int32))
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return rows(digits, parts[0]), rows(digits, parts[1])


def rows(digits: Digits, chosen: np.ndarray) -> Digits:
    """Some of the digits, by their numbers."""
    return Digits(digits.pixels[:, chosen], digits.lengths[chosen], digits.labels[chosen])


def digit_model(cell_name: str, hidden_size: int) -> Network:
    """Cell -> readout, to be asked for the output of each row's last state."""
    return jaxrnn.stacked(options.cell_named(cell_name, hidden_size), jaxrnn.readout(CLASSES))


def score(
    model: Network, params: Params, carry: Carry, digits: Digits, loop: Loop = jaxrnn.bptt
) -> training.Loss:
    """The mean of -log p(label | pixels), in nats, and the share of digits read right.

    Each is read from the zero carry on; the one that came is handed back.
    """
    last, _ = jaxrnn.unroll(model, params, digits.pixels, lengths=digits.lengths, loop=loop)
    logits = model.output(params, last)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, digits.labels)
    return nats.mean(), (carry, {"accuracy": (logits.argmax(axis=-1) == digits.labels).mean()})


def batches(digits: Digits, batch_size: int, seed: int) -> Iterator[Digits]:
    """Without end, batches of digits in an order that is drawn anew for each pass over them.

    What does not fill a batch is left out of that pass.
    """
    count, draws = len(digits.labels), np.random.default_rng(seed)
    while True:
        order = draws.permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield rows(digits, order[start : start + batch_size])


def task(chosen: options.Options) -> training.Task:
    """Whole sequences, each begun with the zero carry, so that none is handed on.

    UserError if a batch is more than all digits to train on.
    """
    model, digits = digit_model(chosen.cell, chosen.hidden_size), load()[0]
    if chosen.batch_size > (count := len(digits.labels)):
        raise options.UserError(f"--batch-size: got {chosen.batch_size}, expected at most {count}")
    return training.Task(
        init=lambda key: DigitParams(*model.init(key, input_size=1)),
        loss=lambda params, carry, batch, _, loop: score(model, params, carry, batch, loop),
        batches=batches(digits, chosen.batch_size, chosen.seed),
        rows=Digits._make((1, 0, 0)),
        items=chosen.batch_size,
        unit="digit",
        measure="accuracy",
        levels={"guessing": 1 / CLASSES},
    )
