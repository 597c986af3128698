"""`jaxrnn train digits`: classifies handwritten digits, read pixel by pixel.

Each row of a batch has its own length: it ends with the last pixel that has ink.
"""

import functools
import zlib
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
from jaxrnn.cli import options, run_folder, training
from jaxrnn.cli.events import NO_EVENTS, Events
from jaxrnn.types import Carry, Key, Loop, Network, Params

ABOUT = "handwritten digits read pixel by pixel, many-to-one"
DEFAULTS = {"hidden_size": 128, "batch_size": 64, "steps": 1000, "learning_rate": 0.005}
CLASSES = 10
LARGEST_PIXEL = 16  # in scikit-learn's digits


class Digits(NamedTuple):
    """Images as sequences, and their labels.

    Fields:
        pixels: `(64, B, 1)`, row after row, from 0 to 1.
        lengths: `(B,)`, the number of pixels up to the last one with ink.
        labels: `(B,)`, from 0 to 9.
    """

    pixels: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def add_train_options(parser: options.Parser) -> None:
    """Adds the options of `jaxrnn train digits`."""
    training.add_options(parser, "digits", **DEFAULTS)


def train(args: options.Options, events: Events = NO_EVENTS) -> None:
    """Trains on the digits, saves the run, and prints the accuracy on the test part."""
    digits_task = task(args)
    _, _, test = load()
    params = training.train(digits_task, args, events)
    _, (_, metrics) = _score(digits_task.network, params, None, test)
    count = len(test.labels)
    print(f"accuracy on the {count} digits that training has not seen: ", end="")
    print(f"{metrics['accuracy']:.1%}")
    events.write("test", accuracy=float(metrics["accuracy"]), digits=count)


def load() -> tuple[Digits, Digits, Digits]:
    """Loads scikit-learn's 1,797 digits in three parts: training, validation and test.

    A fifth is the test part, and a tenth of the rest is the validation part. The parts are always
    the same, and each digit has the same share in all of them.
    """
    images, labels = load_digits(return_X_y=True)
    pixels = (images.T[..., None] / LARGEST_PIXEL).astype(np.float32)
    numbers = np.arange(1, images.shape[1] + 1)
    lengths = np.max(np.where(images > 0, numbers, 0), axis=1)
    digits = Digits(pixels, lengths.astype(np.int32), labels.astype(np.int32))

    def split(indices: np.ndarray, share: float) -> list[np.ndarray]:
        settings = {"test_size": share, "stratify": labels[indices], "random_state": 0}
        return train_test_split(indices, **settings)

    rest, test = split(np.arange(len(labels)), 0.2)
    training_part, validation = split(rest, 0.1)
    return (
        select_rows(digits, training_part),
        select_rows(digits, validation),
        select_rows(digits, test),
    )


def select_rows(digits: Digits, indices: np.ndarray) -> Digits:
    """Returns the digits with these indices."""
    return Digits(digits.pixels[:, indices], digits.lengths[indices], digits.labels[indices])


def digit_model(
    cell_name: str, hidden_size: int, layers: int = 1, dropout_rate: float = 0.0
) -> Network:
    """Returns the network cells -> linear; its output for the last state of a row is used.

    Dropout, if any, is applied to the outputs of each cell, not to the pixels.
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
    """Returns the mean of -log p(label | pixels), in nats, and the accuracy.

    Every row starts from the zero carry, and `carry` is returned unchanged. The key draws the noise
    of a noisy model; without a key there is no noise.
    """
    pixels, lengths, labels = digits
    last, ys = jaxrnn.unroll(model, params, pixels, lengths=lengths, loop=loop, key=key)
    logits = model.output(params, last)
    if key is not None:
        # The noise after the last cell is in the outputs, but not in the carry.
        logits = ys[lengths - 1, jnp.arange(len(labels))]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return nats.mean(), (carry, {"accuracy": (logits.argmax(axis=-1) == labels).mean()})


_score = jax.jit(score, static_argnums=0)


def example_loss(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """Returns the loss of a run on its example, `(params, loop) -> loss`, and its parameters."""
    network, params = run_folder.load_network(folder)
    dtypes = {"pixels": np.float32, "lengths": np.int32, "labels": np.int32}
    example = Digits(*run_folder.load_example(folder, **dtypes))
    with run_folder.reading(folder / run_folder.EXAMPLE):
        pixels, lengths, labels = example
        fits = pixels.ndim == 3 and pixels.size and pixels.shape[2] == 1
        check.require(fits, "pixels", check.describe(pixels), "(T, B, 1)")
        for name, array, largest in (("lengths", lengths, len(pixels)), ("labels", labels, 9)):
            got = check.describe(array)
            expected = f"int32[{pixels.shape[1]}]"
            check.require(got == expected, name, got, expected)
            is_within = array.min() >= 0 and array.max() <= largest
            got = f"numbers from {array.min()} to {array.max()}"
            check.require(is_within, name, got, f"numbers from 0 to {largest}")
    with run_folder.reading(folder / run_folder.PARAMS):
        logits = jax.eval_shape(
            lambda p: network.output(p, jaxrnn.unroll(network, p, pixels)[0]), params
        )
        got = check.describe(logits)
        expected = f"{CLASSES} logits for each row"
        fits = logits.shape == (pixels.shape[1], CLASSES)
        check.require(fits, repr(network), got, expected)
    return lambda params, loop: score(network, params, None, example, loop)[0], params


def batches(digits: Digits, batch_size: int, seed: int, first: int = 0) -> Iterator[Digits]:
    """Yields batches of digits without end, in a new random order for each epoch.

    Digits that do not fill a batch are left out of that epoch. The batches are those from number
    `first` on.
    """
    count = len(digits.labels)
    draws = np.random.default_rng(seed)
    epoch, number = divmod(first, count // batch_size)
    for _ in range(epoch):  # the draws of the epochs before, so that a resumed run sees the same
        draws.permutation(count)
    while True:
        order = draws.permutation(count)
        for start in range(number * batch_size, count - batch_size + 1, batch_size):
            yield select_rows(digits, order[start : start + batch_size])
        number = 0


def task(args: options.Options) -> training.Task:
    """Returns the task of `jaxrnn train digits`: independent sequences from the zero carry.

    Raises a UserError if a batch is larger than the training part.
    """
    model = digit_model(args.cell, args.hidden_size, args.layers, args.dropout)
    digits, validation, _ = load()
    count = len(digits.labels)
    if args.batch_size > count:
        raise options.UserError(f"--batch-size: got {args.batch_size}, expected at most {count}")

    def loss(params: Params, carry: Carry, batch: Digits, key: Key, loop: Loop) -> training.Loss:
        noise_key = key if model.is_noisy else None
        return score(model, params, carry, batch, loop, noise_key)

    def evaluate(params: Params) -> dict[str, float]:
        nats, (_, metrics) = _score(model, params, None, validation)
        return {"loss": float(nats), "accuracy": float(metrics["accuracy"])}

    example_rows = np.arange(len(validation.labels))[: args.batch_size]
    return training.Task(
        network=model,
        init=lambda key: model.init(key, input_size=1),
        loss=loss,
        evaluate=evaluate,
        batches=functools.partial(batches, digits, args.batch_size, args.seed),
        rows=Digits._make((1, 0, 0)),
        items=args.batch_size,
        unit="digit",
        measure="accuracy",
        levels={"guessing": 1 / CLASSES},
        example=select_rows(validation, example_rows)._asdict(),
        data=str(zlib.crc32(digits.pixels.tobytes())),
    )
