"""Tables and charts of a run: `python -m benchmarks accelerator --report FILE`."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
WORST_CORRECT = 12  # rows of the table of errors
NAMES = {"float32": "float32", "bfloat16": "bfloat16", "float32, highest": "float32_highest"}


def render(path: Path) -> str:
    """Returns Markdown, with the worst row of each table first; draws charts next to the file."""
    content = json.loads(path.read_text())
    rows = content["rows"]
    parts = [
        header(content),
        _products(rows.get("rate", [])),
        _correctness(rows.get("correctness", [])),
        _summary(rows.get("speed", [])),
        *_speeds(rows.get("speed", []), path),
        _profile(rows.get("profile", [])),
        _speed_table("Command buffers by XLA_FLAGS", rows.get("command buffers by flag", [])),
        _speed_table("Linear cells, long sequences", rows.get("linear", [])),
        _certificates(rows.get("certificate", [])),
        _left_out(content),
    ]
    return "\n\n".join(part for part in parts if part)


def header(content: dict[str, Any]) -> str:
    """Returns the device, the versions, and how the run ended."""
    machine = content["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items())
    torch = machine.get("torch", {})
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in content["stages"].items())
    end = "ran to its end" if content["finished"] else "was cut short"
    lines = [
        f"# {machine.get('device', 'no device')}, {machine.get('date', '')}",
        f"nvidia-smi: {machine.get('nvidia-smi') or 'none'}; {machine.get('cores')} cores; Python "
        f"{machine.get('python')}; {versions}; cuDNN of PyTorch {torch.get('cudnn')}; XLA_FLAGS "
        f"“{machine.get('XLA_FLAGS', '')}”.",
        f"The run {end}: {stages}. Workers replaced: {len(content['restarts'])}.",
    ]
    if content.get("settings", {}).get("dry_run"):
        lines.append("**A dry run: tiny shapes; its times say nothing.**")
    return "\n\n".join(lines)


def _table(heads: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    heads = list(heads)
    head, *body = ["| " + " | ".join(map(str, line)) + " |" for line in [heads, *lines]]
    return "\n".join([head, "|---" * len(heads) + "|", *body])


def _products(rows: Rows) -> str:
    if not rows:
        return ""
    row = rows[0]
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in row["tflops"].items())
    tf32 = "takes TF32" if row["jax_takes_tf32"] else "takes no TF32"
    return f"One product of {row['size']}³, TFLOP/s at best: {rates}. In float32 JAX {tf32}."


def _correctness(rows: Rows) -> str:
    if not rows:
        return ""
    out = sum(not row["ok"] for row in rows)

    def excess(row: dict[str, Any]) -> float:
        if row.get("error"):
            return float("inf")
        shares = [float(row[what]) / row[f"{what}_limit"] for what in ("values", "gradient")]
        return max(float("inf") if share != share else share for share in shares)

    worst = sorted(rows, key=excess, reverse=True)[:WORST_CORRECT]
    lines = [
        (
            *(row[key] for key in ("case", "loop", "dtype", "precision")),
            *(_small(row.get(key)) for key in ("values", "values_of_scan")),
            *(_small(row.get(key)) for key in ("gradient", "gradient_of_scan")),
            "ok" if row["ok"] else row.get("error", "OUT"),
        )
        for row in worst
    ]
    heads = ("network", "loop", "dtype", "products", "values", "of scan", "gradient", "of scan", "")
    return (
        f"## Errors against float64\n\n{len(rows)} comparisons, {out} out of limits; the "
        f"{len(lines)} nearest to them, ‖a − b‖ / ‖b‖ of the worst array:\n\n{_table(heads, lines)}"
    )


def _small(value: Any) -> str:
    return "–" if value is None else f"{float(value):.1e}"


def _speeds(rows: Rows, path: Path) -> list[str]:
    """Returns a table for each kind of work and each mode, and draws its chart."""
    parts = []
    for work in dict.fromkeys(row["work"] for row in rows):
        for mode in dict.fromkeys(row["mode"] for row in rows):
            chosen = [row for row in rows if (row["work"], row["mode"]) == (work, mode)]
            if chosen:
                parts.append(_speed_table(f"{work.capitalize()}, {mode}", chosen))
                _chart(f"{work}_{NAMES[mode]}", chosen, path)
    return parts


def _speed_table(title: str, rows: Rows) -> str:
    """Returns a table of µs per step and the ratio to scan's time, the worst `bptt` first."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row["milliseconds"]))
    rows = sorted(rows, key=lambda row: -row["ratio_to_scan"].get("bptt", {"median": 0})["median"])

    def cell(row: dict[str, Any], name: str) -> str:
        if name not in row["milliseconds"]:
            return "failed" if name in row.get("errors", {}) else "–"
        step, ratio = row["microseconds_a_step"][name], row["ratio_to_scan"][name]
        share = row.get("share_of_product_rate", {}).get(name)
        more = "" if share is None else f", {share:.1%}"
        differs = ", **differs**" if name in row.get("apart", ()) else ""
        times = f"{step['median']:.2f} ({step['best']:.2f}–{step['worst']:.2f})"
        return f"{times}, {ratio['median']:.2f} ({ratio['worst']:.2f}){more}{differs}"

    lines = [
        (row["cell"], ", ".join(map(str, row["shape"].values())), *(cell(row, n) for n in names))
        for row in rows
    ]
    return (
        f"## {title}\n\nµs a time step, median (best–worst); share of scan's time, median of all "
        "turns (worst); share of the rate of one large product where that was measured. Below 1 is "
        f"faster than scan.\n\n{_table(('cell', 'T, B, I, H', *names), lines)}"
    )


def _summary(rows: Rows) -> str:
    """Returns a table of speeds relative to scan: the geometric mean and the worst."""
    lines = []
    kinds = dict.fromkeys((row["work"], row["mode"]) for row in rows)
    for work, mode in kinds:
        chosen = [row for row in rows if (row["work"], row["mode"]) == (work, mode)]
        for name in dict.fromkeys(name for row in chosen for name in row["milliseconds"]):
            medians = [
                (1 / row["ratio_to_scan"][name]["median"], row)
                for row in chosen
                if name in row["ratio_to_scan"]
            ]
            if name == "scan":
                continue
            speed, worst = min(medians, key=lambda pair: pair[0])
            shape = ", ".join(map(str, worst["shape"].values()))
            mean = statistics.geometric_mean([share for share, _ in medians])
            at = f"{speed:.2f} ({worst['cell']} {shape})"
            lines.append((work, mode, name, f"{mean:.2f}", at, len(medians)))
    if not lines:
        return ""
    lines.sort(key=lambda line: float(line[4].split()[0]))
    heads = ("work", "mode", "side", "times as fast as scan, mean", "at worst", "points")
    return f"## In short\n\n{_table(heads, lines)}"


def _chart(name: str, rows: Rows, path: Path) -> None:
    from benchmarks import charts

    charts.draw(name, rows, path.with_suffix(""))


def _profile(rows: Rows) -> str:
    if not rows:
        return ""
    lines, largest = [], []
    for row in sorted(rows, key=lambda row: -row["measured"].get("kernels_a_step", 0)):
        measured = row["measured"]
        loops = "; ".join(
            "+".join(f"{n} {kind}" for kind, n in loop.items()) for loop in row["counted"]
        )
        numbers = [
            f"{measured[key]:.1f}" if key in measured else "–"
            for key in (
                "kernels_a_step",
                "copies_a_step",
                "microseconds_a_step_busy",
                "microseconds_a_step_from_first_to_last",
            )
        ]
        lines.append((row["cell"], row["side"], loops, *numbers))
        for kernel in measured.get("largest", [])[:5]:
            each = f"{kernel['microseconds_each']:.2f}"
            share = f"{kernel['microseconds_a_step']:.2f}"
            calls = f"{kernel['a_step']:.2f}"
            largest.append((row["cell"], row["side"], f"`{kernel['kernel']}`", calls, each, share))
    heads = (
        *("cell", "side", "in the body of each loop (counted)", "kernels a step (measured)"),
        *("copies a step", "µs busy a step", "µs a step from first to last"),
    )
    tables = [_table(heads, lines)]
    if largest:
        names = ("cell", "side", "kernel", "a step", "µs each", "µs a step")
        tables.append(_table(names, largest))
    return "## What a step launches, gradient\n\n" + "\n\n".join(tables)


def _certificates(rows: Rows) -> str:
    lines = [
        (row["cell"], "ok" if row["ok"] else "OUT OF LIMITS", len(row["rows"])) for row in rows
    ]
    return f"## Certificate\n\n{_table(('cell', '', 'comparisons'), lines)}" if lines else ""


def _left_out(content: dict[str, Any]) -> str:
    """Returns each error and each reason once, with its points."""
    skipped: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    for entry in content["skipped"]:
        skipped.setdefault(entry["why"], []).append(entry["what"])
    for entry in content["errors"]:
        failed.setdefault(entry["error"].splitlines()[0], []).append(entry["key"])
    for row in content["rows"].get("speed", []):
        for name, why in row["absent"].items():
            skipped.setdefault(f"{name}: {why}", []).append(f"{row['work']}, {row['mode']}")
        for name, why in row["errors"].items():
            failed.setdefault(f"{name}: {why.splitlines()[0]}", []).append(row["key"])
    return _list("Failed", failed) + _list("Left out", skipped)


def _list(title: str, entries: dict[str, list[str]]) -> str:
    lines = [f"- {why}: {'; '.join(dict.fromkeys(what))}" for why, what in entries.items()]
    return f"## {title}\n\n" + "\n".join(lines) + "\n\n" if lines else ""
