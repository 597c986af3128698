"""Forecasts without a network, beside which a network is scored."""

from collections.abc import Callable

import numpy as np

from jaxrnn.cli.series_windows import (
    FITTED_ORIGINS,
    Panel,
    Part,
    Setup,
    baseline,
    future,
    seasonal,
    spaced,
)

# From origins `(N,)` to forecasts `(N, H)` of the standardised target.
Forecast = Callable[[np.ndarray], np.ndarray]
NAIVE = "naive"
SEASONAL = "seasonal naive"
AUTOREGRESSION = "linear autoregression"


def baselines(panel: Panel, training: Part, setup: Setup) -> dict[str, Forecast]:
    """Returns the baselines by name; the seasonal naive only if there is a season."""
    found: dict[str, Forecast] = {NAIVE: lambda origins: repeat_last(panel, origins, setup)}
    if setup.season > 1:
        found[SEASONAL] = lambda origins: seasonal(panel, origins, setup)
    coefficients = fit_autoregression(panel, training, setup)
    found[AUTOREGRESSION] = lambda origins: lags(panel, origins, setup) @ coefficients
    return found


def repeat_last(panel: Panel, origins: np.ndarray, setup: Setup) -> np.ndarray:
    """Returns the last value for all H steps."""
    return np.repeat(panel.last[origins][:, None], setup.horizon, axis=1)


def lags(panel: Panel, origins: np.ndarray, setup: Setup) -> np.ndarray:
    """Returns the last W values of the target and a one, `(N, W + 1)`.

    A missing value is the last one before it; before the series began, the first one.
    """
    rows = origins[:, None] - np.arange(setup.window)
    rows = np.maximum(rows, panel.starts[panel.series_of(origins)][:, None])
    return np.concatenate([panel.last[rows], np.ones((len(rows), 1), np.float32)], axis=1)


def fit_autoregression(panel: Panel, training: Part, setup: Setup) -> np.ndarray:
    """Returns the coefficients `(W + 1, H)` by least squares on the training part.

    There is a regression for each step of the horizon, of all series together.
    """
    series = panel.series_of(training.origins)
    has_window = training.origins - panel.starts[series] >= setup.window - 1
    origins = spaced(training.origins[has_window], FITTED_ORIGINS)
    missed, valid = future(panel, origins, training.ends, setup)
    targets = missed * setup.spread + baseline(panel, origins, setup)
    design = lags(panel, origins, setup).astype(np.float64)
    groups = [slice(None)]
    if not valid.all():
        # Where targets are missing, each step of the horizon has its own rows.
        groups = [slice(step, step + 1) for step in range(setup.horizon)]
    solutions = []
    for group in groups:
        rows = valid[:, group].all(axis=1)
        solutions.append(np.linalg.lstsq(design[rows], targets[rows][:, group], rcond=None)[0])
    return np.concatenate(solutions, axis=1)
