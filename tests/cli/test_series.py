"""Forecasts: what is read of a file, that nothing of the future is, and the whole command."""

import contextlib
import csv
import importlib
import io
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy as safetensors_arrays
from scipy.stats import norm

import jaxrnn
from jaxrnn.cli import run_folder, series, series_baselines, series_data, series_heads
from jaxrnn.cli import series_windows as prepare
from jaxrnn.cli.main import main
from jaxrnn.cli.options import Options
from jaxrnn.interop import safetensors, stablehlo

ROWS, SEASON = 90, 7
LEVELS = 0.1, 0.5, 0.9
TINY = (
    *("--hidden-size", "4", "--batch-size", "4", "--steps", "6", "--evaluate-every", "3"),
    *("--horizon", "3", "--window", "8", "--dropout", "0.2", "--devices", "1"),
)


def date_of(day):
    return str(np.datetime64("2024-01-30") + np.timedelta64(day, "D"))


def write_file(path, rows=ROWS, names=("a", "b")):
    """A season, a trend, noise, a covariate, missing values; the series in turns, like dates."""
    draws = np.random.default_rng(0)
    with path.open("w") as file:
        print("day,place,sales,price", file=file)
        for day in range(rows):
            for number, name in enumerate(names):
                value = 100**number * (5 + np.sin(2 * np.pi * day / SEASON) + day / 40)
                sales = value + 100**number * draws.normal() / 10
                price = draws.integers(9)
                sales = "" if (day + number) % 11 == 4 else f"{sales:.6f}"
                print(f"{date_of(day)},{name},{sales},{price}", file=file)
    return path


def options(path, **changes):
    given = {"target": "sales", "time": "day", "series": "place", "covariates": None}
    given |= {"horizon": 3, "window": 8, "season": None, **changes}
    return Options(file=Path(path), **given)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("series") / "sales.csv")


@pytest.fixture(scope="module")
def data(file):
    return series.load(options(file))


def test_a_file_is_read_by_series(file, data):
    table = data.table
    assert table.names == ("a", "b")
    assert table.columns == ("sales", "price")
    assert table.starts.tolist() == [0, ROWS, 2 * ROWS]
    with file.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["place"] == "b"]
    for row, values, time in zip(rows, table.values[ROWS:], table.times[ROWS:], strict=True):
        sales = float(row["sales"] or "nan")
        np.testing.assert_array_equal(values, [sales, float(row["price"])])
        assert series_data.time_text(table, time) == row["day"]
    assert np.isnan(table.values[:, 0]).sum() > 10


def test_chunks_change_nothing(file, data, monkeypatch):
    monkeypatch.setattr(series_data, "CHUNK", 7)
    again = series_data.read(options(file))
    for one, other in zip(again, data.table, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("times", "has_dates"),
    [
        (["2023-12-31T22:00Z", "2024-01-01 01:00+02:00"], True),
        (["30.12.2023", "02.01.2024"], True),
        (["12/30/2023", "1/2/2024"], True),
        (["3", "20"], False),
        (["-1.5", "1e3"], False),
        (["1700-01-01", "1969-12-31"], True),
    ],
)
def test_times_are_dates_or_numbers(times, has_dates):
    pd = series_data.pandas()
    parser = series_data._Times()
    numbers = not has_dates
    parsed = [parser.parse(pd.Series([float(t) if numbers else t], name="t")) for t in times]
    assert parser.has_dates == has_dates
    assert parsed[0] < parsed[1]


def test_a_blank_line_in_a_file_of_one_column_is_a_missing_value(tmp_path):
    (tmp_path / "y.csv").write_text("y\n1\n\n3\n")
    table = series_data.read(options(tmp_path / "y.csv", target="y", time=None, series=None))
    np.testing.assert_array_equal(table.values[:, 0], [1, np.nan, 3])


GOOD = [f"2024-01-{day:02},{day % 5},{day % 3}" for day in range(1, 31)]


def lines(*changes, header="day,y,x"):
    content = [*GOOD]
    for index, line in changes:
        content[index] = line
    return "\n".join([header, *content]) + "\n"


LATE = "2024-01-31,1,1"
BAD_FILES = [
    (lines(), ["--target", "z"], r"--target: got 'z', expected one of the columns 'day', 'y', 'x'"),
    (lines(), ["--target", "day"], "--target: got 'day', which is --time or --series, expected an"),
    (lines(), ["--time", "z"], "--time: got 'z', expected one of the columns"),
    (lines(), ["--series", "z"], "--series: got 'z', expected one of the columns"),
    (lines(), ["--covariates", "z"], "--covariates: got 'z', expected one of the columns"),
    (lines(), ["--covariates", "y"], "--covariates: got 'y', which is the target, the time or"),
    (lines((3, "2024-01-04,4,rain")), [], "FILE: got 'rain' in column 'x', row 4, expected numb"),
    (lines((3, "2024-01-04,four,1")), [], "FILE: got 'four' in column 'y', row 4, expected numb"),
    (lines((3, "2024-01-04,inf,1")), [], "FILE: got 'inf' in column 'y', row 4, expected number"),
    (
        lines((3, "2024-01-04,4e30,1")),
        [],
        r"FILE: got '4e\+30' in column 'y', row 4, expected numbers",
    ),
    (lines((3, "2024-01-04,1,1,1")), [], "FILE: got '.*bad.csv' .*, expected a CSV file with a h"),
    (lines((3, ",1,1")), [], "--time: got 'nan' in column 'day', row 4, expected a time in each"),
    (lines((3, "soon,1,1")), [], "--time: got 'soon' in column 'day', row 4, expected times that"),
    (lines((3, LATE)), [], "--time: got '2024-01-05' after '2024-01-31' in row 5, expected incr"),
    (lines((3, GOOD[2])), [], "--time: got '2024-01-03' after '2024-01-03' in row 4, expected .*"),
    ("\n".join(lines().split("\n")[:6]), [], "FILE: got '.*' with 3 rows in the training part, "),
    (lines(), ["--window", "20"], "FILE: .* 21 rows in the training part, expected at least 23"),
    ("day,y,x\n", [], r"FILE: got '.*bad.csv' \(rows: got none, expected at least one\)"),
    ("", [], r"FILE: got '.*bad.csv' \(No columns to parse"),
    (None, [], r"FILE: got '.*bad.csv' \(No such file or directory\), expected a CSV file"),
    (b"\xff\xfe\x00", [], r"FILE: got '.*bad.csv' \(byte 0xff at 0\), expected a CSV file"),
    (
        "day,y\n" + "".join(f"{day},\n" for day in range(40)),
        [],
        "--target: got '.*' with no value of 'y' in the training part, expected values that diff",
    ),
    (
        "day,y\n" + "".join(f"{day},7\n" for day in range(40)),
        [],
        "--target: got '.*' with the one value 7 of 'y' in the training part, expected values th",
    ),
    (
        "day,y\n" + "".join(f"{day},{day if day < 30 else ''}\n" for day in range(40)),
        [],
        "FILE: got '.*' with no value of 'y' in the test part, expected some at the end",
    ),
]


@pytest.mark.parametrize(("content", "more", "message"), BAD_FILES)
def test_a_bad_file_is_refused_in_a_line(content, more, message, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    ask = ["train", "series", path, "--target", "y", "--time", "day", "--horizon", "3"]
    assert main([str(word) for word in [*ask, *more, "--out", tmp_path / "run"]]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"jaxrnn: error: {message}.*\n", error), error
    assert not (tmp_path / "run").exists()


def test_without_pandas_the_extra_is_named(file, tmp_path, capsys, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert main(["train", "series", str(file), "--target", "y", "--out", str(tmp_path)]) == 2
    assert "pandas: got no such package, expected the extra" in capsys.readouterr().err


def of_row(data, row, window):
    """A batch of one window, without what the future must not change."""
    part = prepare.Part(np.array([row]), data.panel.starts[1:])
    return prepare.windows(data.panel, part, np.array([row]), window)


def changed_after(data, args, rows):
    """The data prepared again, after all numbers of these rows have changed."""
    values = data.table.values.copy()
    values[rows] = 7 * values[rows] - 99
    values[rows[::2], 0] = np.nan
    table = data.table._replace(values=values)
    borders = prepare.split(table, has_times=True)
    setup = prepare.fit(table, borders, args)
    panel = prepare.standardize(table, setup)
    training = prepare.parts(panel, borders)[0]
    return data._replace(panel=panel, setup=setup, training=training)


def test_training_reads_nothing_after_the_training_part(file, data):
    args = options(file)
    first, _ = prepare.split(data.table, has_times=True)
    later = np.concatenate([np.arange(first[0], ROWS), np.arange(first[1], 2 * ROWS)])
    other = changed_after(data, args, later)
    assert other.setup == data.setup
    for name in series_baselines.baselines(data.panel, data.training, data.setup):
        one, two = (
            series_baselines.baselines(d.panel, d.training, d.setup)[name](d.training.origins)
            for d in (data, other)
        )
        np.testing.assert_array_equal(one, two)
    for seed in range(3):
        one, two = (
            next(series.batches(d.panel, d.training, d.setup, 16, seed)) for d in (data, other)
        )
        for field, x, y in zip(one._fields, one, two, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=field)


def test_a_window_reads_nothing_after_its_origin_nor_of_another_series(data):
    for origin in (0, 5, 40, ROWS - 1, ROWS, ROWS + 3, 2 * ROWS - 1):
        start = 0 if origin < ROWS else ROWS
        kept = np.zeros(2 * ROWS, bool)
        kept[start : origin + 1] = True
        panel = data.panel
        noise = np.random.default_rng(1).normal(size=panel.values.shape).astype(np.float32)
        other = data._replace(
            panel=panel._replace(
                values=np.where(kept[:, None], panel.values, noise),
                observed=np.where(kept[:, None], panel.observed, ~panel.observed),
                last=np.where(kept, panel.last, noise[:, 0]),
            )
        )
        one, two = (of_row(d, origin, d.setup) for d in (data, other))
        np.testing.assert_array_equal(one.inputs, two.inputs)
        assert one.lengths == min(data.setup.window, origin - start + 1)
        baselines = [
            forecast(np.array([origin]))
            for d in (data, other)
            for name, forecast in series_baselines.baselines(
                d.panel, data.training, d.setup
            ).items()
            if name != series_baselines.AUTOREGRESSION
        ]
        np.testing.assert_array_equal(baselines[:2], baselines[2:])


def test_targets_are_the_values_after_each_step(data):
    """Restored, they are the numbers of the file; missing ones and those of other parts weigh 0."""
    panel, setup, part = data.panel, data.setup, data.training
    origins = part.origins[::5]
    batch = prepare.windows(panel, part, origins, setup)
    for b, origin in enumerate(origins):
        s = int(origin >= ROWS)
        for p in range(setup.window):
            row = origin - batch.lengths[b] + 1 + p
            is_read = p < batch.lengths[b] and p >= min(setup.window // 2, batch.lengths[b] - 1)
            for h in range(setup.horizon):
                target = row + h + 1
                ours = is_read and target < part.ends[s] and panel.observed[target, 0]
                assert (batch.weights[p, b, h] > 0) == ours
                if ours:
                    base = prepare.baseline(panel, np.array([row]), setup)[0, h]
                    scale, mean = panel.deviations[s], panel.means[s]
                    told = batch.targets[p, b, h] * batch.scales[b] + base * scale + mean
                    assert told == pytest.approx(data.table.values[target, 0], rel=1e-5)
    assert batch.weights.mean() == pytest.approx(1, rel=1e-5)
    assert all(np.isfinite(x).all() for x in batch)


def test_a_missing_value_is_told_by_its_mask_alone(data):
    values, observed = data.panel.values, data.panel.observed
    assert not np.any(values[~observed])
    row = int(np.flatnonzero(~observed[:, 0])[3])
    batch = of_row(data, row, data.setup)
    value, price, is_observed, has_price = batch.inputs[batch.lengths[0] - 1, 0, :4]
    assert (value, is_observed, has_price) == (0, 0, 1)
    assert price == np.clip(values[row, 1], data.setup.low[1], data.setup.high[1])
    assert data.panel.last[row] == values[row - 1, 0]


def test_the_parts_are_split_at_the_same_times_and_share_no_target(data):
    parts = data.training, data.validation, data.test
    targets = []
    for part in parts:
        valid = prepare.future(data.panel, part.origins, part.ends, data.setup)[1]
        rows = part.origins[:, None] + np.arange(1, data.setup.horizon + 1)
        targets.append({*rows[valid].tolist()})
    assert not targets[0] & targets[1]
    assert not targets[1] & targets[2]
    observed = {*np.flatnonzero(data.panel.observed[:, 0]).tolist()}
    assert observed - set.union(*targets) <= {0, ROWS}
    times = [{data.table.times[row] for row in rows} for rows in targets]
    assert max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2])


def test_the_season_is_found_on_a_trend_and_in_noise_there_is_none(data, tmp_path):
    assert data.setup.season == SEASON
    draws = np.random.default_rng(2)
    (tmp_path / "noise").write_text("y\n" + "".join(f"{x}\n" for x in draws.normal(size=400)))
    args = options(tmp_path / "noise", target="y", time=None, series=None)
    assert series.load(args).setup.season == 1


def test_the_linear_autoregression_finds_a_linear_law(tmp_path):
    y = [1.0, 0.3]
    for _ in range(200):
        y.append(1.6 * y[-1] - y[-2] + 0.1)
    (tmp_path / "y.csv").write_text("y\n" + "".join(f"{x}\n" for x in y))
    data = series.load(options(tmp_path / "y.csv", target="y", time=None, series=None))
    name = series_baselines.AUTOREGRESSION
    scores = series.baseline_scores(data, data.test, data.test.origins, name)
    naive = series.baseline_scores(data, data.test, data.test.origins, series_baselines.NAIVE)
    assert scores.error < 1e-4 * naive.error


def test_scores_of_baselines_are_those_of_a_loop(data):
    origins = data.test.origins
    values, starts = data.table.values[:, 0], data.table.starts
    errors = {series_baselines.NAIVE: [], series_baselines.SEASONAL: []}
    for origin in origins:
        end = ROWS if origin < ROWS else 2 * ROWS
        filled = [*values[starts[int(origin >= ROWS)] : origin + 1]]
        for t, x in enumerate(filled):
            filled[t] = filled[t - 1] if np.isnan(x) else x
        for h in range(1, 4):
            if origin + h < end and not np.isnan(values[origin + h]):
                truth = values[origin + h]
                errors[series_baselines.NAIVE].append(abs(truth - filled[-1]))
                errors[series_baselines.SEASONAL].append(abs(truth - filled[h - 1 - SEASON]))
    for name, wanted in errors.items():
        scores = series.baseline_scores(data, data.test, origins, name)
        assert scores.error == pytest.approx(np.mean(wanted), rel=1e-5)
        assert scores.pinball == pytest.approx(np.mean(wanted) / 2, rel=1e-5)


def test_the_losses_of_the_heads():
    outputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    target = np.random.default_rng(1).normal(size=5).astype(np.float32)
    quantile, gaussian = series_heads.HEADS["quantile"], series_heads.HEADS["gaussian"]
    numbers = np.asarray(quantile.decode(outputs))
    assert np.all(np.diff(numbers, axis=1) > 0)
    wanted = [
        np.mean(
            [(q if y > x else q - 1) * (y - x) for q, x in zip((0.1, 0.5, 0.9), row, strict=True)]
        )
        for row, y in zip(numbers, target, strict=True)
    ]
    np.testing.assert_allclose(quantile.loss(numbers, target), wanted, rtol=1e-5)
    mean, deviation = np.asarray(gaussian.decode(outputs[:, :2])).T
    wanted = -norm.logpdf(target, mean, deviation)
    told = gaussian.loss(np.stack([mean, deviation], 1), target)
    np.testing.assert_allclose(told, wanted, rtol=1e-5)
    quantiles = gaussian.quantiles(np.stack([mean, deviation], 1))
    np.testing.assert_allclose(quantiles[:, 2], norm.ppf(0.9, mean, deviation), rtol=1e-5)


def ask(file, out, *more):
    words = ["train", "series", file, "--target", "sales", "--time", "day", "--series", "place"]
    return main([str(word) for word in [*words, *TINY, "--out", out, *more]])


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    """The folder of a run, and what was printed."""
    folder, printed = tmp_path_factory.mktemp("runs") / "series", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert ask(file, folder) == 0
    return folder, printed.getvalue()


@pytest.fixture
def trained(run):
    return run[0]


def rows_of(path):
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def test_a_run_has_its_files_and_its_scores(run):
    folder, out = run
    for name in ("this model", "naive", "seasonal naive", "linear autoregression"):
        assert re.search(rf"^ +\S+ +\S+  {name}$", out, re.MULTILINE)
    assert {path.name for path in folder.iterdir()} == {*run_folder.FILES, "forecasts.png"}


def test_a_normal_distribution_has_a_mean_and_a_deviation(trained, data, file, tmp_path):
    network = series.series_model("gru", 4, 3, "gaussian")
    params = network.init(jax.random.key(0), prepare.input_size(data.setup))
    folder, out = copied(trained, tmp_path), tmp_path / "f.csv"
    safetensors.save(folder / "params.safetensors", network, params)
    with_option(folder, output="gaussian")
    assert main(["forecast", str(folder), str(file), "--out", str(out)]) == 0
    rows = rows_of(out)
    assert [*rows[0]] == ["series", "time", "step", "mean", "std"]
    origin = ROWS - 1
    _, ys = jaxrnn.unroll(network, params, of_row(data, origin, data.setup).inputs)
    mean, deviation = np.asarray(series_heads.decode_gaussian(ys[-1, 0].reshape(3, 2))).T
    base = prepare.baseline(data.panel, np.array([origin]), data.setup)[0]
    scale = data.panel.deviations[0]
    wanted = (mean * data.setup.spread + base) * scale + data.panel.means[0]
    np.testing.assert_allclose([float(row["mean"]) for row in rows[:3]], wanted, rtol=1e-5)
    wanted = deviation * data.setup.spread * scale
    np.testing.assert_allclose([float(row["std"]) for row in rows[:3]], wanted, rtol=1e-5)


def test_a_forecast_follows_the_last_row_of_each_series(trained, file, data, tmp_path):
    """It is what the network predicts after that row, in the units of the file."""
    out = tmp_path / "forecast.csv"
    picture = tmp_path / "forecast.png"
    more = ["--out", str(out), "--picture", str(picture)]
    assert main(["forecast", str(trained), str(file), *more]) == 0
    rows = rows_of(out)
    assert picture.exists()
    assert [(row["series"], row["time"], row["step"]) for row in rows] == [
        (name, date_of(ROWS + h), str(h + 1)) for name in ("a", "b") for h in range(3)
    ]
    network, params = run_folder.load_network(trained)
    for s, name in enumerate(("a", "b")):
        origin = (s + 1) * ROWS - 1
        xs = of_row(data, origin, data.setup).inputs
        _, ys = jaxrnn.unroll(network, params, xs)
        numbers = series_heads.decode_quantiles(ys[-1, 0].reshape(3, 3))
        base = prepare.baseline(data.panel, np.array([origin]), data.setup)[0]
        scale, mean = data.panel.deviations[s], data.panel.means[s]
        wanted = (np.asarray(numbers) * data.setup.spread + base[:, None]) * scale + mean
        told = [
            [float(row[q]) for q in ("q0.1", "q0.5", "q0.9")] for row in rows[3 * s : 3 * s + 3]
        ]
        np.testing.assert_allclose(told, wanted, rtol=1e-5)
        assert name == rows[3 * s]["series"]


def test_an_interrupted_run_goes_on_to_the_same_bits(trained, file, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    batches = series.batches

    def interrupted(*args, first=0):
        for count, batch in enumerate(batches(*args, first)):
            if first + count == 4:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(series, "batches", lambda *args: interrupted(*args[:5], first=args[5]))
        assert ask(file, folder, "--checkpoint-every", "2") == 130
    assert main(["train", "--resume", str(folder)]) == 0
    for name in ("validation.csv", "forecasts.png"):
        assert (folder / name).read_bytes() == (trained / name).read_bytes()
    one, two = (jax.tree.leaves(run_folder.load_network(run)[1]) for run in (folder, trained))
    assert [x.tobytes() for x in one] == [x.tobytes() for x in two]


def test_other_data_are_not_gone_on_with(file, tmp_path, monkeypatch, capsys):
    other = write_file(tmp_path / "sales.csv")

    def die(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(series, "batches", die)
        with pytest.raises(ZeroDivisionError):
            ask(other, tmp_path / "run", "--checkpoint-every", "2")
    write_file(other, rows=ROWS + 1)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "which began with other data, expected the data it began with" in capsys.readouterr().err


def test_the_example_of_a_run_has_a_loss(trained, data):
    loss, params = series.example_loss(trained)
    batch = prepare.windows(data.panel, data.validation, data.validation.origins[:4], data.setup)
    network, head = run_folder.load_network(trained)[0], series_heads.HEADS["quantile"]
    wanted, _ = series.window_loss(network, head, params, None, batch)
    assert float(loss(params, jaxrnn.scan)) == pytest.approx(float(wanted), rel=1e-5)


def test_an_export_says_how_series_are_scaled(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "write", lambda *_, **__: {})
    assert main(["export", str(trained), "--out", str(tmp_path)]) == 0
    signature = json.loads((tmp_path / "signature.json").read_text())
    assert signature["setup"]["means"] == data.setup.means


@pytest.mark.thorough
def test_a_run_is_inspected(trained, tmp_path):
    assert main(["inspect", str(trained), "--out", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("inputs", np.zeros((8, 4), np.float32), "inputs: got float32.8,4., expected .W, B, I"),
        ("lengths", np.full(4, 9, np.int32), "lengths: got 9 to 9, expected numbers from 1 to 8"),
        ("scales", np.ones(3, np.float32), r"scales: got float32.3., expected \(4,\)"),
        (
            "inputs",
            np.zeros((8, 4, 2), np.float32),
            "xs: got float32.4,2., expected a last axis",
        ),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_a_damaged_example_is_refused_in_a_line(trained, name, array, message, tmp_path, capsys):
    folder = copied(trained, tmp_path)
    path = folder / "example.safetensors"
    arrays = {**safetensors_arrays.load(path.read_bytes()), name: array}
    path.write_bytes(safetensors_arrays.save(arrays))
    assert main(["inspect", str(folder), "--out", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"jaxrnn: error: FOLDER: got .*{message}.*\n", error), error


def copied(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def with_option(folder, **changes):
    path = folder / "options.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_setup(**changes):
    def change(folder):
        content = json.loads((folder / "options.json").read_text())
        with_option(folder, setup=content["setup"] | changes)

    return change


BAD_FORECASTS = [
    (with_setup(means={"a": [0]}), "FOLDER: got .*means and deviations of other series"),
    (with_setup(low=[1]), r"FOLDER: got .*options.json' \(setup: got shapes .*, expected 2 numb"),
    (with_setup(horizon=0), r"FOLDER: got .*horizon, window and season \(0, 8, 7\), expected who"),
    (with_setup(spread=0), r"FOLDER: got .*options.json' \(spread: got 0, expected"),
    (with_setup(horizon=4), r"FOLDER: got .*params.safetensors' \(.*expected a last axis of size"),
    (with_setup(columns=["sales", "cost"]), "FILE: got no column 'cost', expected one of the col"),
]


@pytest.mark.parametrize(("change", "message"), BAD_FORECASTS)
@pytest.mark.usefixtures("own_messages")
def test_a_damaged_run_is_refused_in_a_line(trained, file, change, message, tmp_path, capsys):
    folder = copied(trained, tmp_path)
    change(folder)
    assert main(["forecast", str(folder), str(file), "--out", str(tmp_path / "f")]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"jaxrnn: error: {message}.*\n", error), error
    assert not (tmp_path / "f").exists()


def test_a_series_that_was_not_in_the_training_is_refused(trained, tmp_path, capsys):
    other = write_file(tmp_path / "other.csv", names=("a", "c"))
    assert main(["forecast", str(trained), str(other), "--out", str(tmp_path / "f")]) == 2
    message = "--series: got 'c', expected those of the training: 'a', 'b'"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        (["2024-01-31", "2024-02-29", "2024-03-31"], ["2024-04-30", "2024-05-31"]),
        (["2024-01-01 22:00", "2024-01-01 23:00"], ["2024-01-02", "2024-01-02 01:00:00"]),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09"], ["2024-01-10", "2024-01-11"]),
    ],
)
def test_future_times_are_spaced_as_the_last_ones(times, wanted):
    numbers = np.array(times, "datetime64[us]").astype(np.int64)
    values = np.zeros((len(times), 1))
    starts = np.array([0, len(times)])
    table = series_data.Table(values, numbers, starts, ("",), ("y",), True)
    future = series_data.future_times(table, 0, 2)
    assert [series_data.time_text(table, time) for time in future] == wanted


@pytest.mark.parametrize("devices", [1, 2])
def test_the_loss_of_a_batch_over_devices_is_that_of_the_whole(data, devices):
    """Weights are shares of the whole batch, since rows miss different numbers of values."""
    head = series_heads.HEADS["quantile"]
    model = series.series_model("gru", 3, 3, "quantile")
    params = model.init(jax.random.key(0), prepare.input_size(data.setup), np.float32)
    batch = next(series.batches(data.panel, data.training, data.setup, 6, 0))
    axes = prepare.Windows(1, 0, 1, 1, 0)
    split = [np.split(x, devices, axis) for x, axis in zip(batch, axes, strict=True)]
    losses = [
        float(series.window_loss(model, head, params, None, prepare.Windows(*part))[0])
        for part in zip(*split, strict=True)
    ]
    _, ys = jaxrnn.unroll(model, params, batch.inputs, lengths=batch.lengths)
    numbers = head.decode(ys.reshape(*ys.shape[:-1], 3, 3))
    each = np.asarray(head.loss(numbers, batch.targets))
    wanted = each[batch.weights > 0].mean()
    assert np.mean(losses) == pytest.approx(wanted, rel=1e-5)
