"""A training that is killed, interrupted or out of disk goes on from its last checkpoint."""

import argparse
import csv
import itertools
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cli import events, resuming, run_folder, training
from jaxrnn.cli.main import main
from jaxrnn.cli.options import UserError

TEXT = "".join(f"{n} green bottles hanging on the wall, and ½ of one. " for n in range(60))
STEPS = 40
OPTIONS = (
    *("--hidden-size", "6", "--embedding-size", "4", "--segment-length", "8", "--batch-size", "2"),
    *("--steps", str(STEPS), "--evaluate-every", "7", "--inspect-every", "9", "--dropout", "0.2"),
    *("--checkpoint-every", "2", "--log", "jsonl"),
)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Of the processes: what one has compiled, the next one reads."""
    folder = str(tmp_path_factory.mktemp("cache"))
    settings = {
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return {**os.environ, **settings}


def start(arguments, environment):
    command = [sys.executable, "-m", "jaxrnn", "train", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **streams)
    timer = threading.Timer(300, process.kill)
    timer.daemon = True
    timer.start()
    return process


def end(process):
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, err[-2000:]
    return [json.loads(line) for line in out.splitlines()]


def kill(process, draws, folder):
    """Kills a process after a drawn update, while it writes a checkpoint, or at its end."""
    moment = draws.choice(("after an update", "while it writes", "at the end"))
    last = STEPS - 1 if moment == "at the end" else draws.randrange(STEPS)
    updates = 0
    for line in process.stdout:
        updates += json.loads(line)["event"] == "update"
        if updates > last:
            break
    if moment == "while it writes":
        until = time.monotonic() + 1
        while time.monotonic() < until and not [*folder.glob("checkpoints/*-tmp*")]:
            pass
    else:
        time.sleep(draws.uniform(0, 0.1 if moment == "after an update" else 1.5))
    process.kill()
    process.communicate(timeout=60)


def result(folder):
    """Of a run: the bits of its parameters, and its tables without the seconds."""
    network, params = run_folder.load_network(folder)
    bits = {name: x.tobytes() for name, x in jaxrnn.tree.leaves_by_name(params).items()}
    tables = []
    for name in ("history.csv", "validation.csv"):
        with (folder / name).open(newline="") as file:
            rows = [*csv.DictReader(file)]
        tables.append([{**row, "seconds": None} for row in rows])
    return repr(network), bits, tables, (folder / "curve.png").read_bytes()


def trained_with_kills(folder, draws, kills, devices, environment):
    """The folder of a run that was killed several times, and its updates as they were logged."""
    (folder / "text").write_text(TEXT, "utf-8")
    ask = ["text", "--text", folder / "text", *OPTIONS, "--devices", devices]
    end(start([*ask, "--out", folder / "whole"], environment))
    killed, ask = folder / "killed", [*ask, "--out", folder / "killed"]
    for _ in range(kills):
        kill(start(ask, environment), draws, killed)
        if resuming.has_checkpoints(killed):
            ask = ["--resume", killed]
        elif killed.exists() and (killed / "params.safetensors").exists():
            break  # it was complete
    else:
        end(start(ask, environment))
    return killed


@pytest.mark.parametrize(
    ("devices", "kills"), [pytest.param(1, 2, marks=pytest.mark.thorough), (2, 1)]
)
def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path, environment, devices, kills):
    draws = random.Random(devices)
    killed = trained_with_kills(tmp_path, draws, kills, devices, environment)
    assert result(killed) == result(tmp_path / "whole")
    assert {path.name for path in killed.iterdir()} == set(run_folder.FILES)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_bits(
    tmp_path, environment, devices, seed
):
    draws = random.Random(f"{devices} {seed}")
    killed = trained_with_kills(tmp_path, draws, 2, devices, environment)
    assert result(killed) == result(tmp_path / "whole")


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        out=tmp_path / "run",
        steps=6,
        seed=3,
        learning_rate=0.1,
        clip=1.0,
        task="toy",
        cell="gru",
        hidden_size=1,
        layers=1,
        loop="bptt",
        evaluate_every=2,
        inspect_every=2,
        checkpoint_every=2,
        overwrite=False,
        resume=None,
        batch_size=2,
        devices=1,
    )


def toy(happens=lambda step: None, data="numbers"):
    """(w - 3)² to be made small; the carry is the sum of all batches; the key adds noise.

    The smaller w is, the better is its score, so that the first parameters with one are the best.
    """
    network = jaxrnn.linear(1)

    def add(params, carry, x):
        return carry + x, ()

    def loss(params, carry, batch, key, loop):
        carry, _ = loop(add, (), carry, batch[None])
        distance = (params["w_o"][0, 0] - 3 + jax.random.normal(key)) ** 2
        total = jnp.sum(carry)
        return distance + 0 * total, (carry, {"total": total})

    def batches(start):
        for step in itertools.count(start + 1):
            happens(step)
            yield jnp.full(1, step, jnp.float32)

    return training.Task(
        network=network,
        init=lambda key: network.init(key, 1),
        carry=jnp.zeros(1),
        loss=loss,
        evaluate=lambda params: {"loss": 9 + float(params["w_o"][0, 0])},
        example={"inputs": np.zeros((1, 1), np.float32)},
        data=data,
        batches=batches,
        rows=0,
        items=2,
        unit="thing",
        measure="loss",
        levels={},
    )


def resumed(options, **changes):
    return argparse.Namespace(**{**vars(options), "resume": options.out, **changes})


def whole(options):
    """What a run is that nothing happens to."""
    other = argparse.Namespace(**{**vars(options), "out": options.out / ".." / "whole"})
    training.train(toy(), other)
    return result(other.out)


def at(step, happens):
    return lambda now: happens() if now == step else None


def interrupt():
    raise KeyboardInterrupt


def die():
    raise ZeroDivisionError


def steps_in(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("step", [1, 4, 5])
def test_an_interrupted_run_goes_on_to_the_same_bits(options, step):
    """Where it was interrupted, not only from the last checkpoint that was due."""
    with pytest.raises(KeyboardInterrupt, match=rf"after {step - 1} of 6 .*saved in .*goes on$"):
        training.train(toy(at(step, interrupt)), options)
    assert str(step - 1) in steps_in(options.out)
    assert {path.name for path in options.out.iterdir()} == {*run_folder.FILES, "checkpoints"}
    seen = []
    training.train(toy(seen.append), resumed(options))
    assert seen == [*range(step, 7)]
    assert result(options.out) == whole(options)
    assert {path.name for path in options.out.iterdir()} == set(run_folder.FILES)


def test_a_run_that_failed_goes_on_from_its_last_checkpoint(options):
    with pytest.raises(ZeroDivisionError):
        training.train(toy(at(6, die)), options)
    assert steps_in(options.out) == ["2", "4", "options.json"]
    with pytest.raises(ZeroDivisionError):  # and twice
        training.train(toy(at(6, die)), resumed(options))
    seen = []
    training.train(toy(seen.append), resumed(options))
    assert seen == [5, 6]
    assert result(options.out) == whole(options)


def test_a_new_run_does_not_replace_an_unfinished_one(options):
    with pytest.raises(ZeroDivisionError):
        training.train(toy(at(5, die)), options)
    with pytest.raises(UserError, match=r"--out: got '.*run', which holds checkpoints of an unfi"):
        training.train(toy(), options)
    assert steps_in(options.out) == ["2", "4", "options.json"]
    options.overwrite = True
    training.train(toy(), options)
    assert {path.name for path in options.out.iterdir()} == set(run_folder.FILES)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_that_name_of_somebody_else_is_left_alone(options, overwrite):
    (options.out / "checkpoints").mkdir(parents=True)
    (options.out / "checkpoints" / "mine").touch()
    options.overwrite = overwrite
    with pytest.raises(UserError, match=r"--out: got '.*' with checkpoints in it, which is no"):
        training.train(toy(), options)
    assert (options.out / "checkpoints" / "mine").exists()


def test_two_trainings_cannot_resume_one_run(options):
    with pytest.raises(ZeroDivisionError):
        training.train(toy(at(5, die)), options)

    def resume_too():
        with pytest.raises(UserError, match=r"--resume: got '.*', where another training is ab"):
            training.train(toy(), resumed(options))

    seen = []
    training.train(toy(lambda step: seen.append(step) or at(5, resume_too)(step)), resumed(options))
    assert seen == [5, 6]


def test_other_data_are_refused(options):
    with pytest.raises(ZeroDivisionError):
        training.train(toy(at(5, die)), options)
    with pytest.raises(UserError, match=r"--resume: got '.*run', which began with other data"):
        training.train(toy(data="others"), resumed(options))
    assert steps_in(options.out) == ["2", "4", "options.json"]


def test_other_options_are_refused(options):
    with pytest.raises(ZeroDivisionError):
        training.train(toy(at(5, die)), options)
    with pytest.raises(UserError, match=r"optimizer: got 'adamw\(learning_rate=0.1.* in the check"):
        training.train(toy(), resumed(options, learning_rate=0.2))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(tmp_path, environment):
    (tmp_path / "text").write_text(TEXT, "utf-8")
    folder = tmp_path / "run"
    ask = ["text", "--text", tmp_path / "text", *OPTIONS, "--devices", "1", "--out", folder]
    process = start(ask, environment)
    for line in process.stdout:
        if json.loads(line) == {"event": "checkpoint", "step": 8}:
            # Of a file: as if this were all that the disk has left.
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16, 16))
            break
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    pattern = r"jaxrnn: error: folder: got '.*checkpoints' \(.*\), expected a folder in which.*\n"
    assert re.fullmatch(pattern, err), err
    with jaxrnn.training.Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.latest_step >= 6
        assert all(checkpoints.metadata(step) is None for step in checkpoints.steps)


def test_a_folder_that_vanishes_is_one_line(options, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(OSError, match=r"folder: got '.*checkpoints'.*, expected"):
        training.train(toy(at(3, lambda: options.out.rename(elsewhere))), options)
    shutil.rmtree(options.out, ignore_errors=True)  # what a write made that had begun before
    elsewhere.rename(options.out)
    training.train(toy(), resumed(options))
    assert result(options.out) == whole(options)


def unfinished(tmp_path, capsys, content=None):
    """The folder of a run that ended before its first checkpoint, with these options."""
    (tmp_path / "text").write_text(TEXT, "utf-8")
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    if content is None:
        given = {"text": tmp_path / "text", "steps": 2, "hidden_size": 3, "batch_size": 2}
        given |= {
            "embedding_size": 3,
            "segment_length": 8,
            "devices": 1,
            "checkpoint_every": 5,
            "learning_rate": 1e-3,
        }
        tokens = TEXT.encode("utf-8", "surrogatepass")
        content = {"task": "text", "data": str(zlib.crc32(tokens)), "options": given}
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    (folder / "checkpoints" / "options.json").write_text(text)
    capsys.readouterr()
    return folder


def test_a_run_without_a_checkpoint_yet_begins_anew(tmp_path, capsys):
    folder = unfinished(tmp_path, capsys)
    assert main(["train", "--resume", str(folder)]) == 0
    assert "resumed after 0 of 2 steps" in capsys.readouterr().out
    options = json.loads((folder / "options.json").read_text())
    assert (options["steps"], options["learning_rate"], options["cell"]) == (2, 1e-3, "gru")
    assert {path.name for path in folder.iterdir()} == set(run_folder.FILES)


CONTENTS = [
    "",
    "[]",
    "{",
    {"task": "text"},
    {"task": "text", "data": "", "options": []},
    {"task": "speech", "data": "", "options": {}},
    {"task": "text", "data": "", "options": {"cell": "gruu"}},
    {"task": "text", "data": "", "options": {"steps": [1]}},
    {"task": "text", "data": "", "options": {"colour": "red"}},
    {"task": "text", "data": "", "options": {"help": True}},
    {"task": "--help", "data": "", "options": {}},
]


@pytest.mark.parametrize("content", CONTENTS, ids=str)
@pytest.mark.usefixtures("own_messages")
def test_options_that_are_none_are_refused_in_a_line(tmp_path, capsys, content):
    folder = unfinished(tmp_path, capsys, content)
    assert main(["train", "--resume", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"jaxrnn: error: --resume: got '.*options.json' \(.*\), expected .*\n", err)
    assert [path.name for path in folder.iterdir()] == ["checkpoints"]


def test_the_log_is_one_object_a_line_with_all_numbers(tmp_path, capsys):
    (tmp_path / "text").write_text(TEXT, "utf-8")
    out = tmp_path / "run"
    ask = ["train", "text", "--text", tmp_path / "text", *OPTIONS, "--steps", "8", "--out", out]
    assert main([*map(str, ask)]) == 0
    captured = capsys.readouterr()
    seen = [json.loads(line) for line in captured.out.splitlines()]
    counts = Counter(event["event"] for event in seen)
    once = dict.fromkeys(("start", "saved", "test"), 1)
    assert counts == {**once, "update": 8, "validation": 2, "checkpoint": 3}
    assert "saved in" in captured.err
    with (out / "history.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    updates = [event for event in seen if event["event"] == "update"]
    for row, event in zip(rows, updates, strict=True):
        assert {name: event[name] for name in row} == {name: float(x) for name, x in row.items()}
        assert event["chars_a_second"] > 0
    assert updates[0]["seconds_left"] > updates[-1]["seconds_left"] == 0
    assert [event["step"] for event in seen if event["event"] == "validation"] == [7, 8]


def test_a_number_that_is_not_finite_is_null_in_the_log(capsys):
    with events.opened("jsonl") as log:
        log.write("update", loss=float("nan"), path=run_folder.Path("x"))
        print("for people")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"event": "update", "loss": None, "path": "x"}
    assert captured.err == "for people\n"
