"""Faults in the forecasts of series: the future among what is read, and numbers misplaced."""

from faults.planting import fault

WINDOWS, HEADS, SERIES, MODEL = (
    f"cli/series_{name}.py" for name in ("windows", "heads", "data", "model")
)
TESTS = "cli/test_series.py::test"
TRAINING = f"{TESTS}_training_reads_nothing_after_the_training_part"
CAUSAL = f"{TESTS}_a_window_reads_nothing_after_its_origin_nor_of_another_series"
TARGETS = f"{TESTS}_targets_are_the_values_after_each_step"

FAULTS = (
    fault(
        WINDOWS,
        "fit",
        "standardised by the whole file",
        "ends = borders[0]",
        "ends = table.starts[1:]",
        TRAINING,
    ),
    fault(
        WINDOWS,
        "parts",
        "trained on the validation part",
        "part(starts + 1, first)",
        "part(starts + 1, second)",
        TRAINING,
    ),
    fault(
        WINDOWS,
        "inputs",
        "the next value among the inputs",
        "np.clip(panel.values[rows]",
        "np.clip(panel.values[np.minimum(rows + 1, len(panel.values) - 1)]",
        CAUSAL,
    ),
    fault(
        WINDOWS,
        "seasonal",
        "a season that is still to come",
        "seasons_back = -(-steps // setup.season)",
        "seasons_back = steps // setup.season",
        CAUSAL,
    ),
    fault(
        WINDOWS,
        "windows",
        "a window that reaches into another series",
        "np.maximum(panel.starts[series],",
        "np.maximum(0,",
        CAUSAL,
    ),
    fault(
        WINDOWS,
        "future",
        "missing targets learned",
        "    valid &= panel.observed[rows, 0]\n",
        "",
        TARGETS,
    ),
    fault(
        WINDOWS,
        "future",
        "targets of the next part",
        "rows < ends[panel.series_of(origins)][..., None]",
        "rows < panel.starts[1:][panel.series_of(origins)][..., None]",
        TRAINING,
    ),
    fault(
        WINDOWS,
        "inputs",
        "a missing value that is not told",
        "[values * observed, observed,",
        "[values * observed, np.ones_like(observed),",
        f"{TESTS}_a_missing_value_is_told_by_its_mask_alone",
    ),
    fault(
        HEADS,
        "decode_quantiles",
        "quantiles that cross",
        "middle - below",
        "middle + below",
        f"{TESTS}_the_losses_of_the_heads",
    ),
    fault(
        MODEL,
        "scales",
        "a forecast without its offset",
        " + panel.means[series][:, None]",
        "",
        f"{TESTS}_a_forecast_follows_the_last_row_of_each_series",
    ),
    fault(
        SERIES,
        "_require_increasing",
        "a time twice",
        "table.times[1:] <= table.times[:-1]",
        "table.times[1:] < table.times[:-1]",
        f"{TESTS}_a_bad_file_is_refused_in_a_line",
    ),
    fault(
        "cli/series.py",
        "batches",
        "one batch for ever",
        "first += 1",
        "first += 0",
        f"{TESTS}_an_interrupted_run_goes_on_to_the_same_bits",
    ),
)
