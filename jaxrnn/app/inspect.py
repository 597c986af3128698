"""`jaxrnn inspect` and `jaxrnn story`: what a gradient looks like, and why it vanishes at all."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import check, pictures
from jaxrnn.app import digits, options, run, text
from jaxrnn.types import Params

TASKS = {"text": text, "digits": digits}
BATCH_SIZE = 4  # of the noise that a cell is fed with
STEPS = 100  # of the story
DIRECTIONS = 32  # of the state, at most, that are followed through time


def add_options(parser: options.Parser) -> None:
    """The options of `jaxrnn inspect`."""
    add, size = parser.add_argument, options.whole(1)
    cells = f"where `jaxrnn train` saved, or one of {options.CELL_NAMES}"
    add("what", metavar="FOLDER_OR_CELL", help=cells)
    add("--hidden-size", type=size, default=64, metavar="N", help="features of a cell")
    add("--steps", type=size, default=100, metavar="N", help="of noise that a cell is fed with")
    add_out(parser, "gradient.png")


def add_out(parser: options.Parser, default: str) -> None:
    """The option of where a picture goes."""
    what, known = "of a picture: png, svg, pdf", sorted(FigureCanvasBase.get_supported_filetypes())
    expected = f"a name that ends in one of {', '.join(known)}"
    picture = options.kind(Path, lambda path: path.suffix.lower()[1:] in known, expected)
    parser.add_argument("--out", type=picture, default=Path(default), metavar="FILE", help=what)


def inspect(chosen: run.Options) -> None:
    """Print where a number is not finite, or else the verdict, and draw what it rests on."""
    what = Path(chosen.what)
    loss, params = _of_run(what) if what.is_dir() else _of_cell(chosen)
    birthplace = jaxrnn.locate_nonfinite(loss, params)
    got = f"{chosen.what!r} ({birthplace})"
    check.that(birthplace is None, "FOLDER_OR_CELL", got, "finite numbers", options.UserError)
    calls: list[Any] = []  # of the loop, which is one; outside jit, so that it can be kept

    def noting(*call: Any) -> Any:
        calls.append(call)
        return jaxrnn.bptt(*call)

    loss(params, loop=noting)
    ((step, *given),) = calls
    key = jax.random.key(0)
    found = jax.jit(functools.partial(jaxrnn.spectrum, step, probes=DIRECTIONS, key=key))(*given)
    gates = jaxrnn.saturation(jaxrnn.history(step, given[0], given[2], given[1])[0])
    reach = jaxrnn.reach(found)
    print(jaxrnn.verdict(reach, found, gates))
    figure = Figure(figsize=(17, 9), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    pictures.draw_flow(axes[0], jax.jit(functools.partial(jaxrnn.flow, loss))(params).norms)
    terms = jax.jit(functools.partial(jaxrnn.contributions, loss))(params)
    pictures.draw_contributions(axes[1], terms[0])
    pictures.draw_reach(axes[2], {"this layer": reach})
    pictures.draw_spectrum(axes[3], found)
    pictures.draw_saturation(axes[4], gates)

    def biases(reach: int) -> tuple[jaxrnn.TruncationBias, ...]:
        return jaxrnn.truncation_bias(loss, params, make=lambda k: jaxrnn.truncated(k, reach * k))

    pictures.draw_truncation(axes[5], {"truncated(k)": biases(1), "truncated(k, 2k)": biases(2)})
    figure.savefig(chosen.out, dpi=100)
    print(f"drawn in {chosen.out}")


def story(chosen: run.Options) -> None:
    """Draw the textbook's argument on networks that have learned nothing yet, and near rest."""
    size = 32
    xs = 1e-6 * jax.random.normal(jax.random.key(1), (STEPS, BATCH_SIZE, size))

    def started(cell: jaxrnn.Cell, radius: float) -> Params:
        params = cell.init(jax.random.key(0), size)
        return {**params, "w_h": radius * params["w_h"]}

    def reach(cell: jaxrnn.Cell, radius: float = 1.0) -> Any:
        found = jax.jit(functools.partial(jaxrnn.spectrum, cell))
        return jaxrnn.reach(found(started(cell, radius), cell.carry((BATCH_SIZE,)), xs))

    rnn = jaxrnn.elman(size)
    figure = Figure(figsize=(16, 4.5), layout="constrained")
    axes = figure.subplots(1, 3)
    radii = {f"tanh RNN, radius {r}": reach(rnn, r) for r in (0.9, 1.0, 1.1)}
    pictures.draw_reach(axes[0], radii).set_title("A product of Jacobians vanishes or explodes")
    loops = {"bptt": jaxrnn.bptt, **{f"truncated({k})": jaxrnn.truncated(k) for k in (50, 25)}}
    loss, params = _last(rnn, xs), started(rnn, 0.9)
    flows = [jaxrnn.flow(loss, params, loop=loop).norms[0] for loop in loops.values()]
    pictures.draw_flow(axes[1], flows, "").set_title("Truncation drops what lies before its cut")
    axes[1].set_yticks(range(len(loops)), [*loops])
    cells = {f"LSTM, forget bias {b}": jaxrnn.lstm(size, forget_bias=b) for b in (1.0, 3.0, 5.0)}
    small = {name: reach(cell, 0.2) for name, cell in {"tanh RNN": rnn, **cells}.items()}
    pictures.draw_reach(axes[2], small).set_title("At radius 0.2 an LSTM has its forget gate")
    figure.savefig(chosen.out, dpi=100)
    print(f"drawn in {chosen.out}")


def _of_run(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """The loss of a run that was saved, on its first batch, and its parameters."""
    trained = run.load_options(folder, *TASKS)
    with run.reading(folder / run.OPTIONS):
        task = TASKS[trained.task].task(trained)
        key, batch = jax.random.key(trained.seed), next(task.batches)
        like = jax.eval_shape(task.init, key)
    params = run.load_params(folder, like=like)
    return lambda params, loop: task.loss(params, task.carry, batch, key, loop)[0], params


def _of_cell(chosen: run.Options) -> tuple[Callable[..., jax.Array], Params]:
    """The sum of the last outputs of a cell as it starts, fed with noise; and its parameters."""
    cell, size = options.cell_named(chosen.what, chosen.hidden_size), chosen.hidden_size
    xs = jax.random.normal(jax.random.key(1), (chosen.steps, BATCH_SIZE, size))
    return _last(cell, xs), cell.init(jax.random.key(0), size)


def _last(cell: jaxrnn.Cell, xs: jax.Array) -> Callable[..., jax.Array]:
    """The loss that is the sum of a cell's last outputs."""
    return lambda params, loop: jaxrnn.unroll(cell, params, xs, loop=loop)[1][-1].sum()
