"""`jaxrnn forecast`: forecasts what follows the series in a file, by a trained run; pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxrnn import check
from jaxrnn.cli import figures, run_folder, series_data
from jaxrnn.cli import series_windows as prepare
from jaxrnn.cli.options import Options, Parser, UserError
from jaxrnn.cli.series_data import Table
from jaxrnn.cli.series_heads import HEADS, Head
from jaxrnn.cli.series_model import predict, require_fits, restore
from jaxrnn.cli.series_windows import Panel, Setup
from jaxrnn.diagnostics import plots

PICTURE = "forecasts.png"  # in the folder of a run
PANELS = 4  # of a picture


def add_options(parser: Parser) -> None:
    """Adds the options of `jaxrnn forecast`."""
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="where `jaxrnn train series` saved")
    file = "a CSV file with the columns of the training; forecasts follow its last rows"
    add("file", type=Path, metavar="FILE", help=file)
    out = "the CSV file to write; an existing file is replaced"
    add("--out", type=Path, default=Path("forecast.csv"), metavar="FILE", help=out)
    picture = "a picture of the forecasts: png, svg, pdf; None for none"
    add("--picture", type=figures.picture_file(), metavar="FILE", help=picture)


def forecast(args: Options) -> None:
    """Writes the forecasts of the H values after the end of each series."""
    run = run_folder.load_options(args.folder, "series")
    network, params = run_folder.load_network(args.folder)
    with run_folder.reading(args.folder / run_folder.OPTIONS):
        setup = _setup(run)
    head = load_head(args.folder)
    with run_folder.reading(args.folder / run_folder.PARAMS):
        require_fits(network, params, head, setup)
    if args.picture is not None:
        figures.require_writable(args.picture)
    names = {name: getattr(run, name, None) for name in ("target", "time", "series")}
    table = series_data.read(Options(file=args.file, covariates=None, **names), setup.columns)
    panel = prepare.standardize(table, setup)
    _require_observed(args, table, panel)
    origins = panel.starts[1:] - 1
    numbers = predict(network, params, head, panel, origins, setup)
    restored = restore(panel, setup, origins, head, numbers)
    times = [series_data.future_times(table, s, setup.horizon) for s in range(len(origins))]
    columns = ["time", "step", *head.columns]
    if run.series:
        columns.insert(0, "series")
    rows = []
    for name, dates, values in zip(table.names, times, restored, strict=True):
        for step, (time, numbers_of_step) in enumerate(zip(dates, values, strict=True), start=1):
            row = [series_data.time_text(table, time), step]
            row += [f"{number:.7g}" for number in numbers_of_step]
            if run.series:
                row.insert(0, name)
            rows.append(row)
    series_data.write(args.out, columns, rows)
    print(f"{len(rows):,} forecasts of {run.target!r}, saved in {args.out}")
    if args.picture is not None:
        shown = range(min(PANELS, len(origins)))
        titles = [table.names[s] for s in shown]
        quantiles = head.quantiles(restored)
        figure = draw(table, panel, origins[: len(shown)], quantiles, titles)
        figures.save(figure, args.picture, dpi=100)
        print(f"drawn in {args.picture}")


def load_head(folder: Path) -> Head:
    """Returns the head of a run; UserError if its options do not name one."""
    output = getattr(run_folder.load_options(folder, "series"), "output", None)
    with run_folder.reading(folder / run_folder.OPTIONS):
        check.require(output in [*HEADS], "output", repr(output), f"one of {[*HEADS]}")
        return HEADS[str(output)]


def draw_test(
    table: Table,
    panel: Panel,
    setup: Setup,
    origins: np.ndarray,
    head: Head,
    numbers: np.ndarray,
    path: Path,
) -> None:
    """Draws some forecasts of the test part, with intervals, beside what came."""
    complete = np.flatnonzero(origins + setup.horizon < panel.starts[1:][panel.series_of(origins)])
    if not len(complete):  # a series that is too short for a whole horizon
        complete = np.arange(len(origins))
    chosen = prepare.spaced(complete, PANELS)
    restored = restore(panel, setup, origins[chosen], head, numbers[chosen])
    rows = origins[chosen]
    titles = [
        f"{table.names[s]} from {series_data.time_text(table, table.times[row])}".strip()
        for s, row in zip(panel.series_of(rows), rows, strict=True)
    ]
    figures.save(draw(table, panel, rows, head.quantiles(restored), titles), path, dpi=100)


def draw(
    table: Table, panel: Panel, origins: np.ndarray, quantiles: np.ndarray, titles: Sequence[str]
) -> Figure:
    """Draws a panel for each origin: the target before and after it, and quantiles `(N, H, 3)`."""
    columns = min(2, len(origins))
    rows = -(-len(origins) // columns)
    figure = Figure(figsize=(7 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    horizon = quantiles.shape[1]
    steps = np.arange(1, horizon + 1)
    series = panel.series_of(origins)
    limits = zip(panel.starts[series], panel.starts[series + 1], strict=True)
    for ax, origin, (start, end), numbers, title in zip(
        axes, origins, limits, quantiles, titles, strict=False
    ):
        first = max(start, origin - 3 * horizon - 20)
        seen = np.arange(first, min(origin + horizon + 1, end))
        ax.plot(seen - origin, table.values[seen, 0], color="black", linewidth=1, label="data")
        colour = plots.COLOURS[0]
        low, middle, high = numbers.T
        ax.fill_between(steps, low, high, color=colour, alpha=0.25, label="80 % interval")
        ax.plot(steps, middle, color=colour, label="forecast")
        ax.axvline(0, color="grey", linewidth=0.8, linestyle=":")
        ax.set(title=title, xlabel="steps", ylabel=table.columns[0])
        ax.grid(alpha=0.3)
    for ax in [*axes][len(origins) :]:
        ax.set_axis_off()
    figure.axes[0].legend(loc="upper left")
    return figure


def _setup(run: Options) -> Setup:
    """Returns the setup among the options of a run; ValueError if it is damaged."""
    fields: Any = getattr(run, "setup", None)
    check.require_instance("setup", fields, dict)
    missing = [name for name in Setup._fields if name not in fields]
    check.require(not missing, "setup", f"no {missing}", "it")
    setup = Setup(**{name: fields[name] for name in Setup._fields})
    setup = setup._replace(columns=tuple(setup.columns))
    whole = (setup.horizon, setup.window, setup.season)
    fits = all(isinstance(n, int) and n > 0 for n in whole)
    check.require(fits, "setup", f"horizon, window and season {whole}", "whole numbers from 1")
    for name in ("change", "spread"):
        check.require_positive(name, getattr(setup, name))
    check.require_instance("is_seasonal", setup.is_seasonal, bool)
    is_same = setup.means.keys() == setup.deviations.keys()
    check.require(is_same, "setup", "means and deviations of other series", "those of the same")
    arrays = [setup.low, setup.high, *setup.means.values(), *setup.deviations.values()]
    shapes = {np.array(numbers, np.float64).shape for numbers in arrays}
    expected = f"{len(setup.columns)} numbers a series"
    check.require(shapes == {(len(setup.columns),)}, "setup", f"shapes {shapes}", expected)
    return setup


def _require_observed(args: Options, table: Table, panel: Panel) -> None:
    """Raises a UserError if a series has no value of the target to go on from."""
    for name, a, b in zip(table.names, panel.starts[:-1], panel.starts[1:], strict=True):
        got = f"{str(args.file)!r} with no value of {table.columns[0]!r} in the series {name!r}"
        has_value = panel.observed[a:b, 0].any()
        check.require(has_value, "FILE", got, "at least one to go on from", UserError)
