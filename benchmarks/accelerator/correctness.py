"""Is every loop, cell and network correct on this device?

Values and gradients (of all outputs with random cotangents, for parameters, carry and inputs) are
compared with float64 on the host's CPU at the same narrow arguments: in float32 with products at
the highest precision, and in bfloat16. The error of `scan` under the same conditions is reported
with each error.
"""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks.accelerator import compiler
from benchmarks.accelerator.compiler import Job
from benchmarks.accelerator.run import Run
from benchmarks.problems import STEPS
from jaxrnn import tree

LOOPS = dict(jaxrnn.LOOPS)
CUDNN = {"bptt": jaxrnn.bptt, "cudnn": jaxrnn.cudnn()}
FUSED = {"bptt": jaxrnn.bptt, "fused": jaxrnn.fused()}
# The limit of an error is a factor times the error of `scan`, plus some roundings, and at most the
# ceiling. The limit of the error of `scan` is the ceiling.
FACTOR, ROUNDINGS = 2.0, 8
CEILING = {"float32": 1e-4, "bfloat16": 6e-2}
PRECISION = {"float32": "highest", "bfloat16": None}


class Case(NamedTuple):
    """A network and how it is run.

    Fields:
        name: the name in the rows.
        step: a Cell, a Network, or a plain Step.
        shape: T, B, I.
        loops: the loops to compare, by name.
        part: the Cell that makes parameters and carry for a plain Step.
        with_mask_and_resets: whether there are a mask and resets.
        with_lengths: whether rows are right-padded.
        dtypes: the dtypes to compare in.
    """

    name: str
    step: Any
    shape: tuple[int, int, int]
    loops: dict[str, jaxrnn.Loop]
    part: Any = None
    with_mask_and_resets: bool = False
    with_lengths: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


def cases(dry: bool) -> list[list[Case]]:
    """Returns groups of cases that are compiled together, the most informative first."""
    hidden, shape = (6, (11, 3, 5)) if dry else (64, (37, 16, 48))
    lstm, bptt = jaxrnn.lstm(hidden), {"bptt": jaxrnn.bptt}
    loops = {name: loop for name, loop in LOOPS.items() if name != "scan"}
    if dry:
        loops = {name: loops[name] for name in ("bptt", "truncated:4")}
    every_loop = Case("lstm, mask, resets", lstm, shape, loops, with_mask_and_resets=True)
    cells = [
        Case(name, make(hidden), shape, bptt)
        for name, make in jaxrnn.CELLS
        if not dry or name in ("gru", "lru")
    ]
    plain = Case("gru, plain step", STEPS["gru"], shape, bptt, jaxrnn.gru(hidden))
    plain = plain._replace(dtypes=("float32",))
    deep = jaxrnn.stacked(lstm, jaxrnn.residual(jaxrnn.gru(hidden)), jaxrnn.linear(5))
    both = jaxrnn.bidirectional(jaxrnn.gru(hidden), jaxrnn.lstm(hidden))
    networks = [
        Case("stack", deep, shape, bptt, with_mask_and_resets=True),
        Case("bidirectional", both, shape, bptt, with_mask_and_resets=True),
        plain,
    ]
    if dry:
        return [[every_loop], [*cells, networks[0]]]
    # Long enough for `bptt` to work in chunks.
    large = [
        Case(f"{make.__name__}, large", make(256), (512, 64, 256), bptt, dtypes=("float32",))
        for make in (jaxrnn.gru, jaxrnn.lstm)
    ]
    by_cudnn = Case("lstm, cudnn", lstm, shape, CUDNN, dtypes=("float32",))
    padded = by_cudnn._replace(name="lstm, cudnn, lengths", with_lengths=True)
    of_cudnn = [by_cudnn, padded] if jax.default_backend() == "gpu" else []
    by_fused = [
        Case(f"{make.__name__}, fused", make(hidden), shape, FUSED, with_mask_and_resets=True)
        for make in (jaxrnn.elman, jaxrnn.gru, jaxrnn.lstm)
    ]
    of_fused = by_fused if jax.default_backend() in ("gpu", "tpu") else []
    return [[every_loop, *large], [*of_fused, *of_cudnn], cells[:8], [*cells[8:], *networks]]


def measure(run: Run) -> None:
    """Compares all cases in float32, then in bfloat16, within a quarter of the run's time."""
    references: dict[tuple[str, str], Any] = {}
    end = run.clock() + run.seconds / 4
    for dtype in PRECISION:
        for group in cases(run.dry):
            chosen = [case for case in group if dtype in case.dtypes]
            chosen = [case for case in chosen if not run.is_done(_key(case, dtype))]
            if not chosen:
                continue
            if run.clock() > end or not run.has(30):
                names = ", ".join(case.name for case in chosen)
                run.record.skip(f"correctness, {dtype}: {names}", "no time left")
                continue
            _group(run, chosen, dtype, references)


def _key(case: Case, dtype: str) -> str:
    return f"correctness/{dtype}/{case.name}"


def _group(run: Run, group: list[Case], dtype: str, references: dict[tuple[str, str], Any]) -> None:
    start = time.perf_counter()
    compiling = f"correctness/{dtype}/compiling {group[0].name} and {len(group) - 1} more"
    if run.is_done(compiling):
        run.record.skip(compiling, "an earlier worker died while compiling it")
        return
    run.record.begin(compiling, 150)
    jobs: dict[tuple[str, str, str], Callable[[], Job]] = {}
    drawn = {}
    for case in group:
        drawn[case.name] = narrow, wide = draw(case, dtype)
        for name, loop in {"scan": jaxrnn.scan, **case.loops}.items():
            make = functools.partial(Job, _function(case, loop))
            jobs[dtype, case.name, name] = functools.partial(make, narrow, PRECISION[dtype])
            if needs_reference(name, loop) and (case.name, name) not in references:
                jobs["float64", case.name, name] = functools.partial(make, wide, wide=True)
    built: Any = compiler.build(jobs, 120)  # type: ignore[arg-type]
    for (kind, case_name, name), program in built.items():
        if kind == "float64":
            references[case_name, name] = program
    run.say(f"correctness: {len(jobs)} programs in {time.perf_counter() - start:.0f} s")
    for case in group:
        key = _key(case, dtype)
        run.record.begin(key, 60)
        programs = {name: built[dtype, case.name, name] for name in ("scan", *case.loops)}
        own_references = {
            loop_name: reference
            for (case_name, loop_name), reference in references.items()
            if case_name == case.name
        }
        try:
            rows = compare(case, dtype, programs, own_references, *drawn[case.name])
            for row in rows:
                run.record.add("correctness", key, row)
        except Exception as error:
            run.failed(key, error)


def needs_reference(name: str, loop: jaxrnn.Loop) -> bool:
    """Whether a loop needs its own reference; exact loops share the reference of `scan`."""
    return name == "scan" or jaxrnn.types.window_start_of(loop) is not None


def draw(case: Case, dtype: str) -> tuple[Any, Any]:
    """Draws `(args, v)`, arguments and cotangents: narrow on the device, wide on the CPU."""
    rng, (steps, batch, inputs) = np.random.default_rng(0), case.shape
    part = case.part or case.step
    host = jax.devices("cpu")[0]

    def normal(like: Any, scale: float) -> Any:
        return jax.tree.map(lambda x: _normal(rng, x) * scale, like)

    with jax.default_device(host):
        params = jax.tree.map(np.asarray, part.init(jax.random.key(0), inputs))
        # No bias is zero.
        params = jax.tree.map(lambda p, n: p + n, params, normal(params, 0.05))
        carry = normal(part.initial_carry((batch,)), 0.5)
        like = part.initial_carry((batch,), dtype)
        xs = rng.standard_normal((steps, batch, inputs)).astype(np.float32)
        args = tree.cast((params, carry, xs), dtype)
        args = (args[0], jax.tree.map(lambda c, one: c.astype(one.dtype), carry, like), args[2])
        outputs = jax.eval_shape(_runner(case, jaxrnn.scan), *args)
        v = jax.tree.map(lambda x: jnp.asarray(_normal(rng, x), x.dtype), outputs)
        narrow = args, v
    with compiler.wide():
        wide = jax.device_put(tree.cast(narrow, jnp.float64), host)
    return jax.device_put(narrow, jax.devices()[0]), wide


def _normal(rng: np.random.Generator, like: Any) -> np.ndarray:
    numbers = rng.standard_normal(like.shape)
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        return (numbers + 1j * rng.standard_normal(like.shape)).astype(np.complex64)
    return numbers.astype(np.float32)


def _runner(case: Case, loop: jaxrnn.Loop) -> Callable[..., Any]:
    rng, marks = np.random.default_rng(1), {}
    if case.with_mask_and_resets:
        mask, reset = (rng.random(case.shape[:2]) < chance for chance in (0.7, 0.2))
        marks = {"mask": mask, "reset": reset}
    if case.with_lengths:
        marks = {"lengths": rng.integers(0, case.shape[0] + 1, case.shape[1])}

    def runner(params: Any, carry: Any, xs: Any) -> Any:
        return jaxrnn.unroll(case.step, params, xs, carry=carry, loop=loop, **marks)

    return runner


def _function(case: Case, loop: jaxrnn.Loop) -> Callable[..., Any]:
    runner = _runner(case, loop)

    def values_and_gradient(args: Any, v: Any) -> Any:
        outputs, pull_back = jax.vjp(runner, *args)
        return outputs, pull_back(v)

    return values_and_gradient


def compare(
    case: Case,
    dtype: str,
    programs: dict[str, Any],
    references: dict[str, Any],
    narrow: Any,
    wide: Any,
) -> list[dict[str, Any]]:
    """Returns a row for each loop, `scan` first, with errors and their limits."""
    with compiler.wide():
        expected = {
            name: jax.device_get(compiler.require_built(program).program(*wide))
            for name, program in references.items()
        }
    rows: list[dict[str, Any]] = []
    for name, program in programs.items():
        row = {"case": case.name, "loop": name, "dtype": dtype}
        row["precision"] = PRECISION[dtype] or "default"
        try:
            results = jax.device_get(compiler.require_built(program).program(*narrow))
            values, gradient = map(_worst, results, expected.get(name, expected["scan"]))
        except Exception as error:
            rows.append({**row, "error": f"{type(error).__name__}: {error}"[:600], "ok": False})
            continue
        scan = rows[0] if rows else {}
        row |= {"values": values, "gradient": gradient}
        row |= {f"{what}_of_scan": scan.get(what) for what in ("values", "gradient")}
        limits = {what: limit(dtype, scan.get(what)) for what in ("values", "gradient")}
        row |= {f"{what}_limit": value for what, value in limits.items()}
        rows.append({**row, "ok": all(row[what] <= limits[what] for what in limits)})
    return rows


def limit(dtype: str, of_scan: float | None) -> float:
    """Returns the limit of an error, given the error of `scan`; NaN is out of any limit."""
    rounding = float(jnp.finfo(dtype).eps)
    if of_scan is None:
        return CEILING[dtype]
    return min(FACTOR * of_scan + ROUNDINGS * rounding, CEILING[dtype])


def certificates(run: Run) -> None:
    """Runs the certificate of the common cells on this device."""
    if run.dry:
        run.record.skip("certificate", "a dry run")
        return
    for name in ("gru", "lstm", "elman"):
        key = f"certificate/{name}"
        if run.is_done(key):
            continue
        if not run.has(60):
            run.record.skip(key, "no time left")
            continue
        run.record.begin(key, 120)
        try:
            result = jaxrnn.certify(dict(jaxrnn.CELLS)[name](6), names=(name, "bptt"))
            rows = [{**row._asdict(), "ok": row.ok} for row in result.rows]
            run.record.add("certificate", key, {"cell": name, "ok": result.ok, "rows": rows})
            run.say(f"{key}: {'ok' if result.ok else 'OUT OF LIMITS'}")
        except Exception as error:
            run.failed(key, error)


def _worst(results: Any, expected: Any) -> float:
    """Returns ‖a - b‖ / ‖b‖ of the worst leaf; NaN if a result is NaN."""
    pairs = zip(_leaves(results), _leaves(expected), strict=True)
    return float(np.max([_distance(a, b) for a, b in pairs]))


def _leaves(values: Any) -> Iterable[np.ndarray]:
    for leaf in jax.tree.leaves(values):
        array = np.asarray(leaf)
        is_complex = np.issubdtype(array.dtype, np.complexfloating)
        yield array.astype(np.complex128 if is_complex else np.float64)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    error, size = np.linalg.norm(a - b), np.linalg.norm(b)
    return 0.0 if error == 0 else float(error / size) if size else np.inf
