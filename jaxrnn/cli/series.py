"""`jaxrnn train series`: forecasts the numbers in a CSV file.

At each step the network reads values up to this step, and outputs a distribution of the target for
each of the next H steps: cells -> linear, many-to-many.
"""

import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import options, run_folder, series_baselines, series_data, series_forecast, training
from jaxrnn.cli import series_windows as prepare
from jaxrnn.cli.events import NO_EVENTS, Events
from jaxrnn.cli.series_heads import HEADS, QUANTILES, Head
from jaxrnn.cli.series_model import predict, restore, scales, series_model, window_loss
from jaxrnn.cli.series_windows import Panel, Part, Setup, Windows
from jaxrnn.types import Carry, Key, Loop, Params

ABOUT = "forecasts of the numbers in a CSV file, with intervals"
DEFAULTS = {"hidden_size": 64, "batch_size": 32, "steps": 1000, "learning_rate": 0.003}
# The most origins that are scored, with equal distances.
VALIDATION_ORIGINS = 512
TEST_ORIGINS = 4096


class Data(NamedTuple):
    """A file, prepared for training.

    Fields:
        table: the numbers of the file.
        panel: the numbers, standardised.
        setup: what the training part says.
        training, validation, test: the parts.
        baselines: forecasts without a network.
    """

    table: series_data.Table
    panel: Panel
    setup: Setup
    training: Part
    validation: Part
    test: Part
    baselines: dict[str, series_baselines.Forecast]


class Scores(NamedTuple):
    """How well forecasts agree with what came, in the units of the file.

    Fields:
        error: the mean absolute error of the median, or of the mean.
        pinball: the mean pinball loss of the quantiles 0.1, 0.5 and 0.9.
        coverage: the share of values in the interval between the quantiles 0.1 and 0.9.
    """

    error: float
    pinball: float
    coverage: float


def add_train_options(parser: options.Parser) -> None:
    """Adds the options of `jaxrnn train series`."""
    add = parser.add_argument
    count = options.whole_number(1)
    add("file", type=Path, metavar="FILE", help="a CSV file with a header; a row is a step of time")
    target = "the column to forecast"
    add("--target", type=options.some_text, required=True, metavar="COLUMN", help=target)
    add("--horizon", type=count, default=12, metavar="H", help="steps ahead to forecast")
    window = "steps that are read before; None for twice the longer of horizon and season"
    add("--window", type=options.whole_number(2), metavar="W", help=window)
    add("--time", type=options.some_text, metavar="COLUMN", help="times, dates or numbers in order")
    names = "the name of the series that a row belongs to, if there are several in the file"
    add("--series", type=options.some_text, metavar="COLUMN", help=names)
    covariates = "columns that are read too, separated by commas; None for all others"
    add("--covariates", metavar="NAMES", help=covariates)
    season = "steps in a season, 1 for none; None finds it by autocorrelation"
    add("--season", type=count, metavar="N", help=season)
    output = "three quantiles of each value, or a normal distribution"
    add("--output", choices=[*HEADS], default="quantile", help=output)
    training.add_options(parser, "series", **DEFAULTS)


def train(args: options.Options, events: Events = NO_EVENTS) -> None:
    """Trains on a file, saves the run, prints its scores on the test part, and draws forecasts."""
    data = load(args)
    args = options.Options(**vars(args), setup=data.setup._asdict())
    series_task = task(args, data)
    params = training.train(series_task, args, events)
    head = HEADS[args.output]
    origins = prepare.spaced(data.test.origins, TEST_ORIGINS)
    numbers = predict(series_task.network, params, head, data.panel, origins, data.setup)
    scores = score(data, data.test, origins, head, numbers)
    baselines = {name: baseline_scores(data, data.test, origins, name) for name in data.baselines}
    count = int(prepare.future(data.panel, origins, data.test.ends, data.setup)[1].sum())
    print(f"{count:,} forecasts of {args.target!r}, 1 to {args.horizon} steps ahead, held out:")
    print("  absolute error  pinball loss")
    for name, row in {"this model": scores, **baselines}.items():
        print(f"  {row.error:14.4g}  {row.pinball:12.4g}  {name}")
    print(f"intervals for 80 % hold {scores.coverage:.1%}")
    if data.setup.season == 1:
        print("no season was found; --season N names one")
    events.write("test", **scores._asdict(), baselines=_errors(baselines))
    picture = args.out / series_forecast.PICTURE
    series_forecast.draw_test(data.table, data.panel, data.setup, origins, head, numbers, picture)
    print(f"drawn in {picture}")


def load(args: options.Options) -> Data:
    """Reads and prepares the file of the options; UserError if it is not fit for training."""
    table = series_data.read(args)
    borders = prepare.split(table, args.time is not None)
    setup = prepare.fit(table, borders, args)
    panel = prepare.standardize(table, setup)
    parts = prepare.parts(panel, borders)
    for name, part in zip(("validation", "test"), parts[1:], strict=True):
        origins = prepare.spaced(part.origins, TEST_ORIGINS)
        has_targets = len(origins) and prepare.future(panel, origins, part.ends, setup)[1].any()
        got = f"{str(args.file)!r} with no value of {args.target!r} in the {name} part"
        expected = "some at the end of the file, which is held out"
        check.require(has_targets, "FILE", got, expected, options.UserError)
    forecasts = series_baselines.baselines(panel, parts[0], setup)
    return Data(table, panel, setup, *parts, forecasts)


def score(data: Data, part: Part, origins: np.ndarray, head: Head, numbers: np.ndarray) -> Scores:
    """Returns the scores of forecasts after origins, over all targets that are observed."""
    quantiles = head.quantiles(restore(data.panel, data.setup, origins, head, numbers))
    targets, valid = prepare.future(data.panel, origins, part.ends, data.setup)
    unit, offset = scales(data.panel, data.setup, origins)
    truth = (targets * unit + offset)[valid]
    low, middle, high = (quantiles[..., index][valid] for index in range(3))
    # The pinball loss, as in `series_heads.pinball`, in NumPy and float64.
    missed = truth[:, None] - quantiles[valid]
    levels = np.array(QUANTILES)
    losses = np.maximum(levels * missed, (levels - 1) * missed)
    return Scores(
        error=float(np.mean(np.abs(truth - middle))),
        pinball=float(np.mean(losses)),
        coverage=float(np.mean((low <= truth) & (truth <= high))),
    )


def baseline_scores(data: Data, part: Part, origins: np.ndarray, name: str) -> Scores:
    """Returns the scores of a baseline, whose quantiles are all its forecast."""
    # As a network would have to output it: the difference from the baseline, in units of spread.
    missed = data.baselines[name](origins) - prepare.baseline(data.panel, origins, data.setup)
    numbers = np.repeat(missed[..., None] / data.setup.spread, 3, axis=-1)
    return score(data, part, origins, HEADS["quantile"], numbers)


def _errors(scores: dict[str, Scores]) -> dict[str, float]:
    return {name: row.error for name, row in scores.items()}


def batches(
    panel: Panel, part: Part, setup: Setup, batch_size: int, seed: int, first: int = 0
) -> Iterator[Windows]:
    """Yields batches of windows from random origins without end, from number `first` on."""
    while True:
        # A generator for each batch, so that a resumed run draws the batch of any number at once.
        draws = np.random.default_rng((seed, first))
        origins = np.sort(draws.choice(part.origins, batch_size))
        yield prepare.windows(panel, part, origins, setup)
        first += 1


def task(args: options.Options, data: Data | None = None) -> training.Task:
    """Returns the task of `jaxrnn train series`: independent windows from the zero carry.

    Args:
        args: the options of the command.
        data: defaults to the file that the options name.
    """
    data = data or load(args)
    panel = data.panel
    setup = data.setup
    head = HEADS[args.output]
    model = series_model(
        args.cell, args.hidden_size, setup.horizon, args.output, args.layers, args.dropout
    )

    def loss(params: Params, carry: Carry, batch: Windows, key: Key, loop: Loop) -> training.Loss:
        noise_key = key if model.is_noisy else None
        return window_loss(model, head, params, carry, batch, loop, noise_key)

    origins = prepare.spaced(data.validation.origins, VALIDATION_ORIGINS)
    targets, valid = prepare.future(panel, origins, data.validation.ends, setup)

    def evaluate(params: Params) -> dict[str, float]:
        numbers = predict(model, params, head, panel, origins, setup)
        losses = head.loss(jnp.asarray(numbers[valid]), jnp.asarray(targets[valid]))
        error = score(data, data.validation, origins, head, numbers).error
        return {"loss": float(jnp.mean(losses)), "error": error}

    baselines = {
        name: baseline_scores(data, data.validation, origins, name) for name in data.baselines
    }
    example = prepare.windows(panel, data.validation, origins[: args.batch_size], setup)
    return training.Task(
        network=model,
        init=lambda key: model.init(key, prepare.input_size(setup)),
        loss=loss,
        evaluate=evaluate,
        batches=functools.partial(batches, panel, data.training, setup, args.batch_size, args.seed),
        rows=Windows(1, 0, 1, 1, 0),  # type: ignore[arg-type]
        items=args.batch_size,
        unit="window",
        measure="error",
        levels=_errors(baselines),
        example=example._asdict(),
        data=_checksum(panel),
    )


def example_loss(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """Returns the loss of a run on its example, `(params, loop) -> loss`, and its parameters."""
    network, params = run_folder.load_network(folder)
    head = series_forecast.load_head(folder)
    dtypes = dict.fromkeys(Windows._fields, np.float32) | {"lengths": np.int32}
    example = Windows(*run_folder.load_example(folder, **dtypes))
    with run_folder.reading(folder / run_folder.EXAMPLE):
        fits = example.inputs.ndim == 3 and example.inputs.size
        check.require(fits, "inputs", check.describe(example.inputs), "(W, B, I)")
        length, rows, _ = example.inputs.shape
        lengths = example.lengths
        horizon = example.targets.shape[-1:]
        targets = length, rows, *horizon
        shapes = {"lengths": (rows,), "targets": targets, "weights": targets, "scales": (rows,)}
        for name, shape in shapes.items():
            array = getattr(example, name)
            check.require(array.shape == shape, name, check.describe(array), str(shape))
        got = f"{lengths.min()} to {lengths.max()}"
        expected = f"numbers from 1 to {length}"
        check.require(lengths.min() >= 1 and lengths.max() <= length, "lengths", got, expected)
    with run_folder.reading(folder / run_folder.PARAMS):
        outputs = jax.eval_shape(lambda p: jaxrnn.unroll(network, p, example.inputs)[1], params)
        wanted = (length, rows, horizon[0] * len(head.columns))
        got = check.describe(outputs)
        expected = f"outputs {wanted}"
        check.require(outputs.shape == wanted, repr(network), got, expected)
    return lambda params, loop: window_loss(network, head, params, None, example, loop)[0], params


def _checksum(panel: Panel) -> str:
    checksum = 0
    for array in (panel.values, panel.observed, panel.starts):
        checksum = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, checksum)
    return str(checksum)
