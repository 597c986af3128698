"""Reads series of numbers from a CSV file, in chunks, and writes forecasts.

pandas is imported where it is used: the other commands do not need it.
"""

import contextlib
import csv
import importlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrnn import check
from jaxrnn.cli.options import Options, UserError, as_user_error

CHUNK = 100_000  # rows that are parsed at once, since a parsed row is larger than its numbers
LARGEST = 1e30  # so that squares of numbers are finite in all that is computed
SHOWN = 8  # names of columns or series in an error
TIME_TEXTS = "times that are all numbers, or all dates such as 2024-01-31 or 2024-01-31 13:00"


class Table(NamedTuple):
    """The rows of a file, ordered by series; the rows of a series are in the order of time.

    Fields:
        values: `(R, C)`, float64, the target first; NaN where a value is missing.
        times: `(R,)`, microseconds since 1970 as int64 for dates, else float64. Without a column of
            times, the number of the row in its series, from 1.
        starts: `(S + 1,)`, the first row of each series, and R.
        names: the names of the series.
        columns: the names of the columns of `values`.
        has_dates: whether the times are dates.
    """

    values: np.ndarray
    times: np.ndarray
    starts: np.ndarray
    names: tuple[str, ...]
    columns: tuple[str, ...]
    has_dates: bool


def pandas() -> Any:
    """Returns the module pandas; UserError if it is not installed."""
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError:
        expected = "the extra for series (pip install 'jaxrnn[series]')"
        raise UserError(f"pandas: got no such package, expected {expected}") from None


def read(args: Options, columns: Sequence[str] | None = None) -> Table:
    """Reads a CSV file with the options `file`, `target`, `covariates`, `time` and `series`.

    Args:
        args: the options.
        columns: the columns to read, the target first. Defaults to the target and the covariates.

    Raises:
        UserError: if the file cannot be read, a column is missing or holds text, or times are
            missing, not in order or twice in a series.
    """
    pandas()
    expected = "a CSV file with a header"
    with _reading(args.file, expected):
        header = _header(args.file)
        columns = tuple(columns or _columns(args, header))
        _require_column("--time", args.time, header)
        _require_column("--series", args.series, header)
        for name in columns:
            _require_column("FILE", name, header)
        parts = [*_chunks(args, columns, header)]
        check.require(bool(parts), "rows", "none", "at least one")
    values = np.concatenate([part[0] for part in parts])
    codes = np.concatenate([part[1] for part in parts])
    times = np.concatenate([part[2] for part in parts])
    names, has_dates = parts[-1][3:]  # the last chunk knows all names
    del parts  # they are as large as the table
    order = np.arange(len(codes))
    if np.any(codes[1:] < codes[:-1]):
        order = np.argsort(codes, kind="stable")
        values = values[order]
        codes = codes[order]
        times = times[order]
    starts = np.searchsorted(codes, np.arange(len(names) + 1))
    if args.time is None:
        times = np.arange(1, len(codes) + 1) - starts[codes].astype(np.float64)
    table = Table(values, times, starts, names, columns, has_dates)
    _require_increasing(args, table, order)
    return table


def time_text(table: Table, time: Any) -> str:
    """Returns a time of a table as it is written in a file."""
    if not table.has_dates:
        return f"{float(time):.15g}"
    text = str(np.datetime64(int(time), "us")).replace("T", " ")
    return text.removesuffix(".000000").removesuffix(" 00:00:00")


def future_times(table: Table, series: int, count: int) -> np.ndarray:
    """Returns the next times of a series, spaced as the last ones are."""
    times = table.times[table.starts[series] : table.starts[series + 1]]
    if len(times) < 2:
        return np.broadcast_to(times[-1:], count)
    recent = times[-50:]
    if table.has_dates and len(recent) > 2:
        pd = pandas()
        with warnings.catch_warnings():  # the next pandas returns another type, which serves too
            warnings.simplefilter("ignore")
            frequency = pd.infer_freq(pd.DatetimeIndex(recent.astype("datetime64[us]")))
        if frequency is not None:  # also months and years, which differ in length
            last = pd.Timestamp(int(recent[-1]), unit="us")
            dates = pd.date_range(last, periods=count + 1, freq=frequency)[1:]
            return dates.to_numpy().astype("datetime64[us]").astype(np.int64)
    step = np.median(np.diff(recent)).astype(times.dtype)
    return times[-1] + step * np.arange(1, count + 1)


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a CSV file; UserError if it cannot be written."""
    with (
        as_user_error("--out", path, "a file that can be written"),
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def shown(names: Sequence[str]) -> str:
    """Returns some names for an error."""
    text = ", ".join(map(repr, names[:SHOWN]))
    if len(names) > SHOWN:
        text += f" and {len(names) - SHOWN} more"
    return text


@contextlib.contextmanager
def _reading(path: Path, expected: str) -> Iterator[None]:
    """Turns errors of a file, and pandas' doubts about it, into a UserError; ours stay."""
    ours = None
    with as_user_error("FILE", path, expected), warnings.catch_warnings():
        warnings.simplefilter("error", pandas().errors.ParserWarning)
        try:
            yield
        except (pandas().errors.ParserWarning, pandas().errors.ParserError) as error:
            raise ValueError(" ".join(str(error).split())) from None  # of one line
        except UserError as error:
            ours = error
    if ours is not None:
        raise ours


def _header(path: Path) -> list[str]:
    return [str(name) for name in pandas().read_csv(path, nrows=0, index_col=False).columns]


def _columns(args: Options, header: Sequence[str]) -> tuple[str, ...]:
    """Returns the target and the covariates: those in the options, or all other columns."""
    _require_column("--target", args.target, header)
    is_other = args.target not in (args.time, args.series)
    got = f"{args.target!r}, which is --time or --series"
    check.require(is_other, "--target", got, "another column", UserError)
    others = [name for name in header if name not in (args.target, args.time, args.series)]
    if args.covariates is not None:
        others = [name for name in args.covariates.split(",") if name]
        for name in others:
            _require_column("--covariates", name, header)
            taken = (args.target, args.time, args.series)
            got = f"{name!r}, which is the target, the time or the series"
            check.require(name not in taken, "--covariates", got, "other columns", UserError)
    return (args.target, *others)


def _require_column(option: str, name: str | None, header: Sequence[str]) -> None:
    if name is not None and name not in header:
        got = repr(name)
        if option == "FILE":
            got = f"no column {name!r}"
        raise UserError(f"{option}: got {got}, expected one of the columns {shown(header)}")


def _chunks(
    args: Options, columns: tuple[str, ...], header: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], bool]]:
    """Yields values, the numbers of the series, times, the names of the series, and has_dates."""
    codes: dict[str, int] = {"": 0}  # one series without a name
    dtypes = {}
    if args.series:
        codes = {}
        dtypes = {args.series: "str"}  # so that the names 01 and 1 stay two
    reader = pandas().read_csv(
        args.file,
        dtype=dtypes,
        chunksize=CHUNK,
        index_col=False,
        low_memory=False,
        skip_blank_lines=len(header) > 1,  # where there is one column, a blank is a missing value
    )
    times = _Times()
    with reader:
        for chunk in reader:
            if not len(chunk):
                continue
            values = np.column_stack([_numbers(chunk[name]) for name in columns])
            numbers = np.zeros(len(chunk), np.int32)
            if args.series:
                numbers = _series_numbers(chunk[args.series], codes)
            when = np.zeros(len(chunk))
            if args.time:
                when = times.parse(chunk[args.time])
            yield values, numbers, when, tuple(codes), times.has_dates


def _row(column: Any, bad: np.ndarray) -> str:
    """Returns the first bad value of a column and where it is, for an error."""
    at = int(np.argmax(bad))
    value = column.iloc[at]
    return f"{str(value)[:40]!r} in column {column.name!r}, row {column.index[at] + 1}"


def _numbers(column: Any) -> np.ndarray:
    """Returns a column as float64, NaN where a value is missing."""
    numbers = pandas().to_numeric(column, errors="coerce")
    values = numbers.to_numpy(np.float64, na_value=np.nan)
    bad = (np.isnan(values) & column.notna().to_numpy()) | (np.abs(values) > LARGEST)
    if np.any(bad):
        expected = f"numbers up to {LARGEST:g}, or no value where one is missing"
        expected += "; --covariates leaves columns out"
        raise UserError(f"FILE: got {_row(column, bad)}, expected {expected}")
    return values


def _series_numbers(column: Any, codes: dict[str, int]) -> np.ndarray:
    """Returns the number of the series of each row; new names are added to `codes`."""
    missing = column.isna().to_numpy()
    if np.any(missing):
        raise UserError(f"--series: got {_row(column, missing)}, expected a name in each row")
    local, names = pandas().factorize(column)
    numbers = [codes.setdefault(str(name), len(codes)) for name in names]
    return np.array(numbers, np.int32)[local]


class _Times:
    """Parses the times of each chunk in the format of the first."""

    def __init__(self) -> None:
        self.has_dates = False
        self._format: str | None = None

    def parse(self, column: Any) -> np.ndarray:
        """Returns times as int64 microseconds or float64."""
        pd = pandas()
        missing = column.isna().to_numpy()
        if np.any(missing):
            raise UserError(f"--time: got {_row(column, missing)}, expected a time in each row")
        if self._format is None:
            self.has_dates = not pd.api.types.is_numeric_dtype(column)
            first = str(column.iloc[0])
            with warnings.catch_warnings():  # that the day comes first, if it is above 12
                warnings.simplefilter("ignore")
                guess = pd.tseries.api.guess_datetime_format(first)
            is_iso = guess is None or first[:4].isdigit()
            self._format = guess
            if is_iso:
                self._format = "ISO8601"
        if self.has_dates:
            text = column.astype("str")
            dates = pd.to_datetime(text, format=self._format, errors="coerce", utc=True)
            bad = dates.isna().to_numpy()
            times = dates.to_numpy("datetime64[us]").astype(np.int64)
        else:
            times = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
            bad = ~np.isfinite(times)
        if np.any(bad):
            raise UserError(f"--time: got {_row(column, bad)}, expected {TIME_TEXTS}")
        return times


def _require_increasing(args: Options, table: Table, order: np.ndarray) -> None:
    """Raises a UserError unless each time of a series is after the one before."""
    wrong = table.times[1:] <= table.times[:-1]
    wrong[table.starts[1:-1] - 1] = False  # from the last row of a series to the first of the next
    if np.any(wrong):
        at = int(np.argmax(wrong))
        before, after = (time_text(table, time) for time in table.times[at : at + 2])
        series = table.names[np.searchsorted(table.starts, at, side="right") - 1]
        where = ""
        hint = "; --series names the column that tells series apart"
        if args.series:
            where = f" of the series {series!r}"
            hint = ""
        got = f"{after!r} after {before!r}{where} in row {order[at + 1] + 1}"
        raise UserError(f"--time: got {got}, expected increasing times{hint}")
