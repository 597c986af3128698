"""`jaxrnn train digits`: handwritten digits, read to the last inked pixel and named there.

The rows of a batch have lengths of their own: nothing follows the last ink but padding.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import options, run, training
from jaxrnn.interop import expressions
from jaxrnn.types import Carry, Key, Loop, Network, Params

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


def add_train_options(parser: options.Parser) -> None:
    """The options of `jaxrnn train digits`."""
    training.add_options(parser, "digits", **DEFAULTS)


def train(chosen: options.Options) -> None:
    """Learn the digits, save the run, and print the accuracy on the test fifth."""
    learned, test = task(chosen), load()[2]
    params = training.train(learned, chosen)
    _, (_, metrics) = _score(learned.network, params, None, test)
    count = len(test.labels)
    print(f"accuracy on the {count} digits held out, which selected nothing: ", end="")
    print(f"{metrics['accuracy']:.1%}")


def load() -> tuple[Digits, Digits, Digits]:
    """scikit-learn's 1,797 digits in three parts: to train on, for validation, and for the test.

    A fifth is the test part, and a tenth of the rest the validation part. Always the same, and each
    digit in the same proportion in all.
    """
    images, labels = load_digits(return_X_y=True)
    pixels = (images.T[..., None] / BRIGHTEST).astype(np.float32)
    lengths = np.max(np.where(images > 0, np.arange(1, images.shape[1] + 1), 0), axis=1)
    digits = Digits(pixels, lengths.astype(np.int32), labels.astype(np.int32))

    def parts(chosen: np.ndarray, share: float) -> list[np.ndarray]:
        settings = {"test_size": share, "stratify": labels[chosen], "random_state": 0}
        return train_test_split(chosen, **settings)

    rest, test = parts(np.arange(len(labels)), 0.2)
    training_part, validation = parts(rest, 0.1)
    return rows(digits, training_part), rows(digits, validation), rows(digits, test)


def rows(digits: Digits, chosen: np.ndarray) -> Digits:
    """Some of the digits, by their numbers."""
    return Digits(digits.pixels[:, chosen], digits.lengths[chosen], digits.labels[chosen])


def digit_model(
    cell_name: str, hidden_size: int, layers: int = 1, dropout_rate: float = 0.0
) -> Network:
    """Cells -> readout, to be asked for the output of each row's last state.

    Dropout, if any, is on the outputs of each cell; the pixels, one a step, are left alone.
    """
    parts = options.recurrent_layers(cell_name, hidden_size, layers, dropout_rate)
    return jaxrnn.stacked(*parts, jaxrnn.linear(CLASSES))


def score(
    model: Network,
    params: Params,
    carry: Carry,
    digits: Digits,
    loop: Loop = jaxrnn.bptt,
    key: Key | None = None,
) -> training.Loss:
    """The mean of -log p(label | pixels), in nats, and the share of digits read right.

    Each is read from the zero carry on; the one that came is handed back. The key draws the noise
    of a model that has some; without it there is none.
    """
    pixels, lengths, labels = digits
    last, ys = jaxrnn.unroll(model, params, pixels, lengths=lengths, loop=loop, key=key)
    # A carry does not tell the noise behind its cell.
    noisy = ys[lengths - 1, jnp.arange(len(labels))]
    logits = model.output(params, last) if key is None else noisy
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return nats.mean(), (carry, {"accuracy": (logits.argmax(axis=-1) == labels).mean()})


_score = jax.jit(score, static_argnums=0)


def example_loss(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """The loss of a run on its example, `(params, loop) -> loss`, and its parameters."""
    network, params = run.load_network(folder)
    dtypes = {"pixels": np.float32, "lengths": np.int32, "labels": np.int32}
    example = Digits(*run.load_example(folder, **dtypes))
    with run.reading(folder / run.EXAMPLE):
        pixels, lengths, labels = example
        fits = pixels.ndim == 3 and pixels.size and pixels.shape[2] == 1
        check.require(fits, "pixels", check.describe(pixels), "(T, B, 1)")
        for name, array, most in (("lengths", lengths, len(pixels)), ("labels", labels, 9)):
            shape = f"int32[{pixels.shape[1]}]"
            check.require(check.describe(array) == shape, name, check.describe(array), shape)
            within = array.min() >= 0 and array.max() <= most
            got = f"numbers from {array.min()} to {array.max()}"
            check.require(within, name, got, f"numbers from 0 to {most}")
    with run.reading(folder / run.PARAMS):
        logits = jax.eval_shape(
            lambda p: network.output(p, jaxrnn.unroll(network, p, pixels)[0]), params
        )
        got, expected = check.describe(logits), f"{CLASSES} logits for each row"
        fits = logits.shape == (pixels.shape[1], CLASSES)
        check.require(fits, expressions.expression_of(network), got, expected)
    return lambda params, loop: score(network, params, None, example, loop)[0], params


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
    model = digit_model(chosen.cell, chosen.hidden_size, chosen.layers, chosen.dropout)
    digits, validation, _ = load()
    if chosen.batch_size > (count := len(digits.labels)):
        raise options.UserError(f"--batch-size: got {chosen.batch_size}, expected at most {count}")

    def loss(params: Params, carry: Carry, batch: Digits, key: Key, loop: Loop) -> training.Loss:
        return score(model, params, carry, batch, loop, key if model.is_noisy else None)

    def evaluate(params: Params) -> dict[str, float]:
        nats, (_, metrics) = _score(model, params, None, validation)
        return {"loss": float(nats), "accuracy": float(metrics["accuracy"])}

    return training.Task(
        network=model,
        init=lambda key: model.init(key, input_size=1),
        loss=loss,
        evaluate=evaluate,
        batches=batches(digits, chosen.batch_size, chosen.seed),
        rows=Digits._make((1, 0, 0)),
        items=chosen.batch_size,
        unit="digit",
        measure="accuracy",
        levels={"guessing": 1 / CLASSES},
        example=rows(validation, np.arange(len(validation.labels))[: chosen.batch_size])._asdict(),
    )
