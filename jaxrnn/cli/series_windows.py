"""Prepares series for training: parts by time, standardised values, and windows of them.

All that is fitted to data here is fitted to the training part: means and deviations of each series,
the range of each column, the season, and the spread of the changes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.signal

from jaxrnn import check
from jaxrnn.cli import series_data
from jaxrnn.cli.options import Options, UserError
from jaxrnn.cli.series_data import Table

# Shares of the time; the rest is the test part.
TRAINING_SHARE = 0.7
VALIDATION_SHARE = 0.15
FITTED_ORIGINS = 20_000  # the most that a fit reads, so that a file of any length takes seconds
MAX_WINDOW = 512  # of the default
SEASON_SERIES = 100  # the most whose autocorrelation is computed
SEASON_ROWS = 100_000
LEAST_AUTOCORRELATION = 0.2  # of a season, and how far its peak rises above what is around it


class Setup(NamedTuple):
    """Everything but the parameters that a forecast needs; it is saved with the options.

    Fields:
        columns: the names of the columns, the target first.
        horizon: H, how many steps ahead the network forecasts.
        window: W, how many steps it reads.
        season: the number of steps in a season; 1 for none.
        is_seasonal: whether the network adds to the seasonal naive forecast, not to the last value.
        change: the root mean square of the changes of the target over 1 to H steps, standardised.
        spread: that of what the network has to add.
        low: the least standardised value of each column.
        high: the largest one.
        means: the means of the columns of each series, by its name.
        deviations: the standard deviations.
    """

    columns: tuple[str, ...]
    horizon: int
    window: int
    season: int
    is_seasonal: bool
    change: float
    spread: float
    low: list[float]
    high: list[float]
    means: Mapping[str, list[float]]
    deviations: Mapping[str, list[float]]


class Panel(NamedTuple):
    """Standardised series, one after another.

    Fields:
        values: `(R, C)`, float32, the target first; 0 where a value is missing.
        observed: `(R, C)`, whether there is a value.
        last: `(R,)`, the last observed target up to each row; 0, the mean, before the first.
        starts: `(S + 1,)`, the first row of each series, and R.
        means: `(S,)`, of the target.
        deviations: `(S,)`, of the target.
    """

    values: np.ndarray
    observed: np.ndarray
    last: np.ndarray
    starts: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def series_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns the number of the series of each row."""
        return np.searchsorted(self.starts, rows, side="right") - 1


class Part(NamedTuple):
    """A part of the time.

    Fields:
        origins: the rows after which to forecast.
        ends: `(S,)`, the row after the last target of each series.
    """

    origins: np.ndarray
    ends: np.ndarray


class Windows(NamedTuple):
    """A batch of windows, each from an origin back.

    Fields:
        inputs: `(W, B, I)`, what the network reads.
        lengths: `(B,)`, the number of steps up to the origin.
        targets: `(W, B, H)`, what to add to the baseline, divided by the spread.
        weights: `(W, B, H)`, 0 where no loss is computed, with a mean of 1.
        scales: `(B,)`, the size of the unit of the targets, in the units of the file.
    """

    inputs: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    scales: np.ndarray


def split(table: Table, has_times: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first row of each series in the validation part, and in the test part.

    With times, all series are split at the same two times. Otherwise each is split by its rows.
    """
    starts = table.starts[:-1]
    ends = table.starts[1:]
    shares = TRAINING_SHARE, TRAINING_SHARE + VALIDATION_SHARE
    if not has_times:
        first, second = (starts + (share * (ends - starts)).astype(int) for share in shares)
        return first, second
    times = np.unique(table.times)

    def first_rows_after(share: float) -> np.ndarray:
        border = times[int(share * len(times))]
        rows = []
        for start, end in zip(starts, ends, strict=True):
            rows.append(start + np.searchsorted(table.times[start:end], border))
        return np.array(rows)

    first, second = map(first_rows_after, shares)
    return first, second


def parts(panel: Panel, borders: tuple[np.ndarray, np.ndarray]) -> tuple[Part, Part, Part]:
    """Returns the parts for training, validation and test: the targets of each lie in it."""
    starts = panel.starts[:-1]
    ends = panel.starts[1:]
    first, second = borders

    def part(first_targets: np.ndarray, part_ends: np.ndarray) -> Part:
        origins = []
        for start, first_target, end in zip(starts, first_targets, part_ends, strict=True):
            # An origin is before its first target, and not before its series.
            origins.append(np.arange(max(start, first_target - 1), end - 1))
        return Part(np.concatenate(origins), part_ends)

    return part(starts + 1, first), part(first, second), part(second, ends)


def fit(table: Table, borders: tuple[np.ndarray, np.ndarray], args: Options) -> Setup:
    """Returns what the training part of a table says; UserError if it says too little."""
    starts = table.starts[:-1]
    ends = borders[0]
    means = {}
    deviations = {}
    low = np.full(len(table.columns), np.inf)
    high = -low
    for name, start, end in zip(table.names, starts, ends, strict=True):
        values = table.values[start:end]
        _require_fit_for_training(table, name, values[:, 0], args)
        observed = ~np.isnan(values)
        count = np.maximum(1, observed.sum(axis=0))
        mean = np.where(observed, values, 0).sum(axis=0) / count
        centred = np.where(observed, values - mean, 0)
        deviation = np.sqrt((centred**2).sum(axis=0) / count)
        deviation[deviation == 0] = 1  # a column that is constant in this part stays 0
        means[name] = mean.tolist()
        deviations[name] = deviation.tolist()
        low = np.minimum(low, (centred / deviation).min(axis=0))
        high = np.maximum(high, (centred / deviation).max(axis=0))
    season = args.season or _season(table, ends)
    longest = int(np.max(ends - starts))
    window = args.window or min(2 * max(args.horizon, season), MAX_WINDOW, max(2, longest // 3))
    got = f"{longest} rows in the training part"
    expected = f"at least {window + args.horizon}, which are --window and --horizon"
    fits = longest >= window + args.horizon
    check.require(fits, "FILE", f"{str(args.file)!r} with {got}", expected, UserError)
    setup = Setup(
        columns=table.columns,
        horizon=args.horizon,
        window=window,
        season=season,
        is_seasonal=False,  # this and the next two are found below
        change=1.0,
        spread=1.0,
        low=low.tolist(),
        high=high.tolist(),
        means=means,
        deviations=deviations,
    )
    panel = standardize(table, setup)
    training = parts(panel, borders)[0]
    origins = spaced(training.origins, FITTED_ORIGINS)
    errors: list[tuple[float, bool, float]] = []
    for is_seasonal in (False, True):
        setup = setup._replace(is_seasonal=is_seasonal)
        missed, valid = future(panel, origins, training.ends, setup)
        count = max(1, int(valid.sum()))
        error = np.abs(missed).sum() / count
        square = np.square(missed).sum() / count
        errors.append((float(error), is_seasonal, float(np.sqrt(square))))
    change = errors[0][2] or 1.0  # from the last value; 1 for a series that never changes
    _, is_seasonal, spread = min(errors)
    return setup._replace(is_seasonal=is_seasonal, change=change, spread=spread or change)


def _require_fit_for_training(table: Table, name: str, target: np.ndarray, args: Options) -> None:
    """Raises a UserError unless the training part of a series has numbers to learn from."""
    series = ""
    if args.series:
        series = f" of the series {name!r}"
    where = f"{str(args.file)!r} with"
    got = f"{where} {len(target)} rows{series} in the training part"
    fits = len(target) > args.horizon
    expected = f"more than --horizon {args.horizon}"
    check.require(fits, "FILE", got, expected, UserError)
    found = np.unique(target[~np.isnan(target)])
    numbers = "no value"
    if len(found):
        numbers = f"the one value {found[0]:g}"
    got = f"{where} {numbers} of {table.columns[0]!r}{series} in the training part"
    check.require(len(found) > 1, "--target", got, "values that differ", UserError)


def standardize(table: Table, setup: Setup) -> Panel:
    """Returns the series in units of their deviations in the training part.

    Raises:
        UserError: if a series was not in the training.
    """
    unknown = [name for name in table.names if name not in setup.means]
    expected = f"those of the training: {series_data.shown([*setup.means])}"
    got = series_data.shown(unknown)
    check.require(not unknown, "--series", got, expected, UserError)
    values = np.empty(table.values.shape, np.float32)
    observed = ~np.isnan(table.values)
    last = np.empty(len(values), np.float32)
    for name, start, end in zip(table.names, table.starts[:-1], table.starts[1:], strict=True):
        rows = slice(start, end)
        mean = np.array(setup.means[name])
        deviation = np.array(setup.deviations[name])
        filled = np.where(observed[rows], table.values[rows], mean)
        values[rows] = (filled - mean) / deviation
        # For each row, the latest row up to it that has a target.
        latest = np.maximum.accumulate(np.where(observed[rows, 0], np.arange(end - start), 0))
        last[rows] = values[rows, 0][latest]
    means = np.array([setup.means[name][0] for name in table.names])
    deviations = np.array([setup.deviations[name][0] for name in table.names])
    return Panel(values, observed, last, table.starts, means, deviations)


def spaced(origins: np.ndarray, most: int) -> np.ndarray:
    """Returns all origins, or `most` of them with equal distances."""
    if len(origins) <= most:
        return origins
    return origins[np.linspace(0, len(origins) - 1, most).astype(int)]


def future(
    panel: Panel, origins: np.ndarray, ends: np.ndarray, setup: Setup
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the targets `(..., H)` after origins `(...)`, and where they are observed.

    They are what to add to the baseline, divided by the spread. Rows from `ends` of their series on
    count as not observed.
    """
    rows = origins[..., None] + np.arange(1, setup.horizon + 1)
    valid = rows < ends[panel.series_of(origins)][..., None]
    rows = np.minimum(rows, len(panel.last) - 1)
    valid &= panel.observed[rows, 0]
    missed = (panel.values[rows, 0] - baseline(panel, origins, setup)) / setup.spread
    return np.where(valid, missed, 0).astype(np.float32), valid


def baseline(panel: Panel, origins: np.ndarray, setup: Setup) -> np.ndarray:
    """Returns the forecast `(..., H)` that the network adds to: the better one in training."""
    if setup.is_seasonal:
        return seasonal(panel, origins, setup)
    return np.repeat(panel.last[origins][..., None], setup.horizon, axis=-1)


def seasonal(panel: Panel, origins: np.ndarray, setup: Setup) -> np.ndarray:
    """Returns the seasonal naive forecast `(..., H)`: the last value of the same phase.

    It is the last value where the series is too short.
    """
    steps = np.arange(1, setup.horizon + 1)
    seasons_back = -(-steps // setup.season)  # rounded up, so that the row is not in the future
    back = steps - setup.season * seasons_back  # from 1 - season to 0
    rows = origins[..., None] + back
    is_known = rows >= panel.starts[panel.series_of(origins)][..., None]
    return panel.last[np.where(is_known, rows, origins[..., None])]


def inputs(panel: Panel, rows: np.ndarray, setup: Setup) -> np.ndarray:
    """Returns what the network reads at each row `(W, B)` of windows: `(W, B, I)`.

    That is, for each column, its value and whether there is one; the change of the target since the
    window began; and, if there is a season, the change of the target since one season ago, and what
    the seasonal naive forecast adds to the last value. Values are clipped to their range in the
    training part, so that no level is new to the network.
    """
    low, high = np.array([setup.low, setup.high], np.float32)
    values = np.clip(panel.values[rows], low, high)
    observed = panel.observed[rows]
    last = panel.last[rows]
    since_first = last - last[:1]
    parts = [values * observed, observed, since_first[..., None] / setup.change]
    if setup.season > 1:
        before = rows - setup.season
        is_known = before >= panel.starts[panel.series_of(rows)]
        since_season = last - panel.last[np.where(is_known, before, rows)]
        parts.append(since_season[..., None] / setup.spread)
        parts.append((seasonal(panel, rows, setup) - last[..., None]) / setup.change)
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def input_size(setup: Setup) -> int:
    """Returns the number I of features that the network reads."""
    size = 2 * len(setup.columns) + 1
    if setup.season > 1:
        size += 1 + setup.horizon
    return size


def windows(panel: Panel, part: Part, origins: np.ndarray, setup: Setup) -> Windows:
    """Returns the windows from origins back, with losses in their second half.

    A window does not reach into another series; at the beginning of a series it is shorter.
    """
    series = panel.series_of(origins)
    first = np.maximum(panel.starts[series], origins - setup.window + 1)
    lengths = (origins - first + 1).astype(np.int32)
    steps = np.arange(setup.window)[:, None]
    rows = np.minimum(first + steps, origins)
    targets, valid = future(panel, rows, part.ends, setup)
    is_read = (steps >= np.minimum(setup.window // 2, lengths - 1)) & (steps < lengths)
    weights = (valid & is_read[..., None]).astype(np.float32)
    weights /= max(weights.mean(), np.float32(1e-9))
    scales = (setup.spread * panel.deviations[series]).astype(np.float32)
    return Windows(inputs(panel, rows, setup), lengths, targets, weights, scales)


def _season(table: Table, ends: np.ndarray) -> int:
    """Returns the lag of the highest peak of the target's autocorrelation, or 1.

    It is that of the residuals of a parabola, which takes a trend out, in the mean over series.
    """
    limits = [*zip(table.starts, ends, strict=False)][:SEASON_SERIES]
    size = min(max(end - start for start, end in limits), SEASON_ROWS)
    total = np.zeros(size)
    for start, end in limits:
        target = table.values[start:end, 0][-size:]
        known = np.flatnonzero(~np.isnan(target))
        time = np.linspace(-1, 1, len(target))
        parabola = np.polynomial.Polynomial.fit(time[known], target[known], min(2, len(known) - 1))
        residuals = np.interp(time, time[known], target[known]) - parabola(time)
        # By Wiener and Khinchin. Zeros up to twice the size keep the ends from meeting.
        power = np.abs(np.fft.rfft(residuals, 2 * size)) ** 2
        correlation = np.fft.irfft(power)[:size]
        total += correlation / max(correlation[0], np.finfo(float).tiny) / len(limits)
    least = LEAST_AUTOCORRELATION
    lags, _ = scipy.signal.find_peaks(total[: size // 2 + 1], height=least, prominence=least)
    return int(max(lags, key=total.__getitem__, default=1))
