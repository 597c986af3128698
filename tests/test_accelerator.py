"""`python -m benchmarks accelerator` on a CPU: a dry run, and runs that are killed, fail or hang.

Each is a process of its own that has a time limit.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TIME_LIMIT = 240  # seconds, for what takes 20 where it has the machine to itself
COMMAND = [sys.executable, "-m", "benchmarks", "accelerator"]
ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "MPLBACKEND": "Agg",
    # Compiling is most of a dry run.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}


def run(command, **options):
    options = {"cwd": ROOT, "env": ENVIRONMENT, "timeout": TIME_LIMIT, **options}
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@contextlib.contextmanager
def started(command, **options):
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition, seconds=TIME_LIMIT):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def content_of(path):
    return json.loads(path.read_text()) if path.exists() else {}


def supervised(path, worker, seconds=60):
    """The supervisor over a worker that is a few lines of Python, in which `record` is there."""
    opening = f"""
        import os, sys, time
        from pathlib import Path
        from benchmarks.accelerator.record import Record
        record = Record.load(Path({str(path)!r}))
    """
    script = textwrap.dedent(opening) + textwrap.dedent(worker)
    supervisor = f"""
        import sys, time
        from pathlib import Path
        from benchmarks.accelerator import supervise
        supervise.LEAST_SECONDS = 1.0
        command = [sys.executable, "-c", {script!r}]
        sys.exit(supervise.supervise(command, Path({str(path)!r}), time.time() + {seconds}))
    """
    done = run([sys.executable, "-c", textwrap.dedent(supervisor)])
    return done, content_of(path)


def test_a_dry_run_measures_reports_and_ends_at_its_deadline(tmp_path):
    path = tmp_path / "cpu.json"
    begun = time.monotonic()
    done = run([*COMMAND, "--minutes", "0.4", "--json", str(path)])
    taken, content = time.monotonic() - begun, content_of(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert taken < 0.4 * 60 + 15
    assert content["finished"]
    assert content["running"] is None
    assert content["settings"]["dry_run"]
    correct = content["rows"]["correctness"]
    assert {row["loop"] for row in correct} >= {"scan", "bptt"}
    assert all(row["ok"] for row in correct)
    assert content["machine"]["versions"]["jax"]
    for row in content["rows"].get("speed", []):
        assert row["ratio_to_scan"]["scan"] == {"median": 1.0, "worst": 1.0}
        assert row["milliseconds"]["bptt"] > 0
        assert row["apart"] == []
        assert {"cudnn", "cudnn's lstm"} <= row["absent"].keys()
    # What did not fit is named.
    assert content["skipped"]
    report = run([*COMMAND, "--report", str(path)])
    assert report.returncode == 0, report.stderr
    assert "# cpu" in report.stdout
    assert "A dry run" in report.stdout
    assert "## Errors against float64" in report.stdout


def test_a_run_that_is_killed_leaves_a_whole_file_and_no_process(tmp_path):
    path = tmp_path / "killed.json"
    with started([*COMMAND, "--minutes", "2", "--json", str(path)]) as process:
        until(lambda: content_of(path).get("rows", {}).get("rate"))
        workers = _children(process.pid)
        assert workers
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert json.loads(path.read_text())["rows"]["rate"][0]["tflops"]["float32"] > 0
    assert not json.loads(path.read_text())["finished"]
    until(lambda: not any(map(_is_alive, workers)), 30)


def _children(process):
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _is_alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_failing_side_is_recorded_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "failing.json"
    script = f"""
        import time
        from pathlib import Path
        import jax.numpy as jnp, jaxrnn
        from benchmarks.accelerator import sides, speed
        from benchmarks.accelerator.record import Record
        from benchmarks.accelerator.run import Run

        def wrong(step, params, carry, xs):
            carry, ys = jaxrnn.scan(step, params, carry, xs)
            return carry, 1.5 * ys

        def broken(posed):
            raise RuntimeError("planted")

        sides.SIDES = {{
            "broken": broken,
            **{{name: sides.SIDES[name] for name in ("scan", "bptt")}},
            "wrong": lambda posed: sides._loop(posed, wrong),
        }}
        run = Run(Record(Path({str(path)!r})), time.time() + 100, 100, True)
        speed.measure(run, speed.batches(True)[:1])
    """
    done = run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == 0, done.stderr
    (row,) = content_of(path)["rows"]["speed"]
    assert "planted" in row["errors"]["broken"]
    assert row["milliseconds"].keys() >= {"scan", "bptt", "wrong"}
    assert row["apart"] == ["wrong"]
    assert "wrong DIFFERS" in done.stdout


def test_a_wrong_gradient_is_out_of_limits():
    script = """
        import jax, jaxrnn
        from benchmarks.accelerator import compiler, correctness

        def wrong(step, params, carry, xs):
            carry, ys = jaxrnn.scan(step, params, carry, xs)
            # The values are right and the gradient is a thousandth too large.
            return carry, ys + 0.001 * (ys - jax.lax.stop_gradient(ys))

        case = correctness.Case("gru", jaxrnn.gru(4), (6, 2, 3), {"wrong": wrong})
        narrow, wide = correctness.draw(case, "float32")
        loops = {"scan": jaxrnn.scan, "wrong": wrong}
        functions = {n: correctness._function(case, loop) for n, loop in loops.items()}
        jobs = {n: lambda f=f: compiler.Job(f, narrow, "highest") for n, f in functions.items()}
        jobs["truth"] = lambda: compiler.Job(functions["scan"], wide, wide=True)
        built = compiler.build(jobs, 100)
        truths = {"scan": built.pop("truth")}
        rows = correctness.compare(case, "float32", built, truths, narrow, wide)
        assert [row["ok"] for row in rows] == [True, False], rows
        assert rows[1]["values"] <= rows[1]["values_limit"]
        assert 5e-4 < rows[1]["gradient"] < 2e-3, rows
    """
    done = run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == 0, done.stderr


def test_a_worker_that_hangs_or_dies_is_replaced_and_its_points_are_not_repeated(tmp_path):
    done, content = supervised(
        tmp_path / "hangs.json",
        """
        for key in ("first", "hangs", "dies", "last"):
            if key not in record.done():
                record.begin(key, 0.5 if key == "hangs" else 60)
                if key == "hangs":
                    time.sleep(1000)
                if key == "dies":
                    os.abort()
                record.add("rows", key, {"value": float("nan")})
        """,
    )
    assert done.returncode == 0, done.stderr
    assert content["finished"]
    assert [row["key"] for row in content["rows"]["rows"]] == ["first", "last"]
    assert content["rows"]["rows"][0]["value"] == "nan"  # JSON has no NaN
    errors = {error["key"]: error["error"] for error in content["errors"]}
    assert errors == {"hangs": "no result within 0 s", "dies": "the worker ended with code -6"}
    assert len(content["restarts"]) == 2


def test_a_worker_that_outlives_the_deadline_is_ended(tmp_path):
    begun = time.monotonic()
    done, content = supervised(
        tmp_path / "late.json", 'record.begin("long", 1000)\ntime.sleep(1000)', seconds=1
    )
    assert time.monotonic() - begun < 30
    assert done.returncode == 1
    assert not content["finished"]
    assert "after the deadline" in content["errors"][0]["error"]


def test_a_trace_is_read():
    script = """
        from benchmarks.accelerator import profile
        def named(kind, pid, tid, name):
            return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
        def event(pid, tid, name, ts, dur):
            return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": ts, "dur": dur}
        events = [
            named("process_name", 1, None, "/device:GPU:0"),
            named("process_name", 2, None, "/host:CPU"),
            named("thread_name", 1, 7, "Stream #7(Compute)"),
            named("thread_name", 1, 8, "XLA Ops"),
            named("thread_name", 2, 1, "python"),
            event(1, 7, "gemm", 0, 4.0), event(1, 7, "gemm", 10, 6.0),
            event(1, 7, "MemcpyD2D", 5, 1.0), event(1, 8, "fusion.1", 0, 5.0),
            event(2, 1, "cuLaunchKernel", 0, 1.0), event(2, 1, "cuGraphLaunch", 0, 1.0),
            event(2, 1, "cuLaunchKernel", 0, 1.0), event(2, 1, "ParseArguments", 0, 1.0),
        ]
        found = profile.summarize_trace(events, 2)
        assert found["kernels_a_step"] == 1.0 and found["copies_a_step"] == 0.5
        assert found["microseconds_a_step_busy"] == 5.5
        assert found["microseconds_a_step_from_first_to_last"] == 8.0
        assert found["calls"] == {"cuLaunchKernel": 2, "cuGraphLaunch": 1}
        (largest,) = found["largest"]
        assert largest["kernel"] == "gemm" and largest["microseconds_a_step"] == 5.0
        rows = [
            {"side": side, "measured": {"calls": {"cuGraphLaunch": n}}}
            for side, n in (("bptt", 1), ("bptt, command buffers", 2))
        ]
        assert profile.is_shown([], rows)[0]
        times = {"bptt": 1.0, "bptt, command buffers": 1.05}
        assert not profile.is_shown([{"milliseconds": times}], rows[:1])[0]
    """
    done = run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --json FILE"),
        (["--json", "no/such/folder/x.json"], "--json: got no/such/folder/x.json"),
        (["--json", "x.json", "--minutes", "0"], "--minutes: got 0.0"),
        (["--report", "no_such.json"], "--report: got no_such.json"),
        (["--report", "README.md", "--json", "x.json"], "expected one of them"),
    ],
)
def test_bad_options_are_named(arguments, message):
    done = run([*COMMAND, *arguments])
    assert done.returncode == 2
    assert message in done.stderr
