"""`jaxrnn inspect` and `jaxrnn story`: what a gradient looks like, and why it vanishes at all."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import digits, figures, options, run, text
from jaxrnn.diagnostics import diagnose, plots
from jaxrnn.diagnostics.spectrum import JacobianSpectrum, MemoryHorizon
from jaxrnn.types import Params

TASKS = {"text": text, "digits": digits}
BATCH_SIZE = 4  # of the noise that a cell is fed with
STEPS = 100  # of the story
DIRECTIONS = 32  # of the state, at most, that are followed through time
STAGES = 6  # of an inspection, each shown on the progress bar while it runs


class LayerReport(NamedTuple):
    """What is found of one recurrent layer.

    Fields:
        spectrum: of the Jacobians of its steps.
        reach: how far back it sees.
        gates: how many of their values are saturated.
        terms: what each step adds to the gradient of its parameters.
    """

    spectrum: JacobianSpectrum
    horizon: MemoryHorizon
    gates: dict[str, jax.Array]
    terms: Params


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


def inspect(chosen: options.Options) -> None:
    """Print where a number is not finite, or else the verdict, and draw what it rests on."""
    figures.require_writable(chosen.out)
    what = Path(chosen.what)
    loss, params = _of_run(what) if what.is_dir() else _of_cell(chosen)
    with tqdm(total=STAGES, unit="stage") as bar:

        @contextlib.contextmanager
        def stage(name: str) -> Iterator[None]:
            bar.set_description(name)
            yield
            bar.update()

        with stage("finite numbers"):
            birthplace = jaxrnn.diagnostics.locate_nonfinite(loss, params)
            got = f"{chosen.what!r} ({birthplace})"
            fits = birthplace is None
            check.require(fits, "FOLDER_OR_CELL", got, "finite numbers", options.UserError)
        with stage("spectrum"):
            found = [_of_layer(*call) for call in _calls(loss, params)]
        with stage("gradient flow"):
            norms = jax.jit(functools.partial(jaxrnn.diagnostics.gradient_flow, loss))(params).norms
        with stage("contributions"):
            terms = jax.jit(functools.partial(jaxrnn.diagnostics.per_step_gradients, loss))(params)
            layers = [LayerReport(*x, of_x) for x, of_x in zip(found, terms, strict=True)]
        with stage("truncation"):
            biases = {
                f"truncated({arguments})": jaxrnn.diagnostics.truncation_bias(
                    loss, params, make=make
                )
                for arguments, make in (("k", jaxrnn.truncated), ("k, 2k", _twice))
            }
        with stage("picture"):
            figures.save(_picture(norms, layers, biases), chosen.out, dpi=100)
    for number, layer in enumerate(layers):
        if len(layers) > 1:
            print(f"recurrent layer {number}:")
        print(diagnose(layer.horizon, spectrum=layer.spectrum, gates=layer.gates))
    print(f"drawn in {chosen.out}")


def _calls(loss: Callable[..., jax.Array], params: Params) -> list[Any]:
    """What a loss gives to its loop, `(step, params, carry, xs)` for each recurrent layer."""
    calls: list[Any] = []  # outside jit, so that the arrays can be kept

    def noting(*call: Any) -> Any:
        calls.append(call)
        return jaxrnn.bptt(*call)

    loss(params, loop=noting)
    return calls


def _of_layer(step: Any, params: Params, carry: Any, xs: Any) -> tuple[Any, Any, Any]:
    """The spectrum, the reach and the saturation of a layer."""
    key = jax.random.key(0)
    find = functools.partial(jaxrnn.diagnostics.jacobian_spectrum, step, probes=DIRECTIONS, key=key)
    found = jax.jit(find)(params, carry, xs)
    gates = jaxrnn.diagnostics.saturation(jaxrnn.history(step, params, xs, carry=carry)[0])
    return found, jaxrnn.diagnostics.memory_horizon(found), gates


def _twice(k: int) -> jaxrnn.Loop:
    return jaxrnn.truncated(k, 2 * k)


def _picture(norms: Any, layers: list[LayerReport], biases: Any) -> Figure:
    """A row of panels for all layers together, and one for each layer."""
    names = ["this layer"] if len(layers) == 1 else [f"layer {i}" for i in range(len(layers))]
    rows = 1 + len(layers)
    figure = Figure(figsize=(18, 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 3)
    plots.plot_gradient_flow(axes[0, 0], norms)
    reaches = {name: layer.horizon for name, layer in zip(names, layers, strict=True)}
    plots.plot_memory_horizon(axes[0, 1], reaches)
    plots.plot_truncation_bias(axes[0, 2], biases)
    for name, layer, (left, middle, right) in zip(names, layers, axes[1:], strict=True):
        plots.plot_per_step_gradients(left, layer.terms)
        plots.plot_jacobian_spectrum(middle, layer.spectrum)
        plots.plot_saturation(right, layer.gates)
        for ax in (left, middle, right) if len(layers) > 1 else ():
            ax.set_title(f"{name}: {ax.get_title()}")
    return figure


def story(chosen: options.Options) -> None:
    """Draw the textbook's argument on networks that have learned nothing yet, and near rest."""
    figures.require_writable(chosen.out)
    size = 32
    xs = 1e-6 * jax.random.normal(jax.random.key(1), (STEPS, BATCH_SIZE, size))

    def started(cell: jaxrnn.Cell, radius: float) -> Params:
        params = cell.init(jax.random.key(0), size)
        return {**params, "w_h": radius * params["w_h"]}

    def horizon(cell: jaxrnn.Cell, radius: float = 1.0) -> Any:
        found = jax.jit(functools.partial(jaxrnn.diagnostics.jacobian_spectrum, cell))
        return jaxrnn.diagnostics.memory_horizon(
            found(started(cell, radius), cell.initial_carry((BATCH_SIZE,)), xs)
        )

    rnn = jaxrnn.elman(size)
    figure = Figure(figsize=(16, 4.5), layout="constrained")
    axes = figure.subplots(1, 3)
    radii = {f"tanh RNN, radius {r}": horizon(rnn, r) for r in (0.9, 1.0, 1.1)}
    plots.plot_memory_horizon(axes[0], radii).set_title(
        "A product of Jacobians vanishes or explodes"
    )
    loops: dict[str, jaxrnn.Loop] = {
        "bptt": jaxrnn.bptt,
        **{f"truncated({k})": jaxrnn.truncated(k) for k in (50, 25)},
    }
    loss, params = _last(rnn, xs), started(rnn, 0.9)
    flows = [
        jaxrnn.diagnostics.gradient_flow(loss, params, loop=loop).norms[0]
        for loop in loops.values()
    ]
    plots.plot_gradient_flow(axes[1], flows, "").set_title(
        "Truncation drops what lies before its cut"
    )
    axes[1].set_yticks(range(len(loops)), [*loops])
    cells = {f"LSTM, forget bias {b}": jaxrnn.lstm(size, forget_bias=b) for b in (1.0, 3.0, 5.0)}
    small = {name: horizon(cell, 0.2) for name, cell in {"tanh RNN": rnn, **cells}.items()}
    plots.plot_memory_horizon(axes[2], small).set_title("At radius 0.2 an LSTM has its forget gate")
    figures.save(figure, chosen.out, dpi=100)
    print(f"drawn in {chosen.out}")


def _of_run(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """The loss of a run that was saved, on its example, and its parameters."""
    return TASKS[run.load_options(folder, *TASKS).task].example_loss(folder)


def _of_cell(chosen: options.Options) -> tuple[Callable[..., jax.Array], Params]:
    """The sum of the last outputs of a cell as it starts, fed with noise; and its parameters."""
    cell, size = options.cell_named(chosen.what, chosen.hidden_size), chosen.hidden_size
    xs = jax.random.normal(jax.random.key(1), (chosen.steps, BATCH_SIZE, size))
    return _last(cell, xs), cell.init(jax.random.key(0), size)


def _last(cell: jaxrnn.Cell, xs: jax.Array) -> Callable[..., jax.Array]:
    """The loss that is the sum of a cell's last outputs."""
    return lambda params, loop: jaxrnn.unroll(cell, params, xs, loop=loop)[1][-1].sum()
