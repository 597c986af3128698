"""`jaxrnn inspect` diagnoses a gradient; `jaxrnn story` draws why gradients vanish."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import digits, figures, options, run_folder, series, text
from jaxrnn.diagnostics import diagnose, plots
from jaxrnn.diagnostics.spectrum import JacobianSpectrum, MemoryHorizon
from jaxrnn.diagnostics.truncation import TruncationBias
from jaxrnn.types import Carry, Params, PyTree, Step

LoopCall = tuple[Step, Params, Carry, PyTree]  # the arguments of a loop
TASKS: dict[str, Any] = {"text": text, "digits": digits, "series": series}
BATCH_SIZE = 4  # rows of noise as inputs of a cell
STORY_STEPS = 100  # time steps of the story
MAX_PROBES = 32  # the largest number of directions for the Jacobian spectrum
NUM_STAGES = 6  # stages of an inspection, on the progress bar


class LayerReport(NamedTuple):
    """The diagnostics of one recurrent layer.

    Fields:
        spectrum: the Jacobian spectrum.
        horizon: the memory horizon.
        gates: the saturation of the gates.
        terms: what each step adds to the gradient of its parameters.
    """

    spectrum: JacobianSpectrum
    horizon: MemoryHorizon
    gates: dict[str, jax.Array]
    terms: Params


def add_options(parser: options.Parser) -> None:
    """Adds the options of `jaxrnn inspect`."""
    add = parser.add_argument
    count = options.whole_number(1)
    cells = f"where `jaxrnn train` saved, or one of {options.CELL_NAMES}"
    add("what", metavar="FOLDER_OR_CELL", help=cells)
    add("--hidden-size", type=count, default=64, metavar="N", help="features of a cell")
    add(
        "--steps",
        type=count,
        default=100,
        metavar="N",
        help="length of the noise that a cell reads",
    )
    add_out(parser, "gradient.png")


def add_out(parser: options.Parser, default: str) -> None:
    """Adds the option `--out`, the file of a picture."""
    picture = figures.picture_file()
    about = "file for the picture: png, svg, pdf"
    parser.add_argument("--out", type=picture, default=Path(default), metavar="FILE", help=about)


def inspect(args: options.Options) -> None:
    """Prints the first number that is not finite, or else a diagnosis, and draws its numbers."""
    figures.require_writable(args.out)
    source = Path(args.what)
    if source.is_dir():
        loss, params = _of_run(source)
    else:
        loss, params = _of_cell(args)
    with tqdm(total=NUM_STAGES, unit="stage") as bar:

        @contextlib.contextmanager
        def stage(name: str) -> Iterator[None]:
            bar.set_description(name)
            yield
            bar.update()

        with stage("finite numbers"):
            nonfinite = jaxrnn.diagnostics.locate_nonfinite(loss, params)
            got = f"{args.what!r} ({nonfinite})"
            is_finite = nonfinite is None
            check.require(is_finite, "FOLDER_OR_CELL", got, "finite numbers", options.UserError)
        with stage("Jacobian spectrum"):
            reports = [_inspect_layer(*call) for call in _loop_calls(loss, params)]
        with stage("gradient flow"):
            norms = jax.jit(functools.partial(jaxrnn.diagnostics.gradient_flow, loss))(params).norms
        with stage("per-step gradients"):
            terms = jax.jit(functools.partial(jaxrnn.diagnostics.per_step_gradients, loss))(params)
            layers = [LayerReport(*x, term) for x, term in zip(reports, terms, strict=True)]
        with stage("truncation"):
            truncation_bias = functools.partial(jaxrnn.diagnostics.truncation_bias, loss, params)
            biases = {
                "truncated(k)": truncation_bias(make=jaxrnn.truncated),
                "truncated(k, 2k)": truncation_bias(make=lambda k: jaxrnn.truncated(k, 2 * k)),
            }
        with stage("picture"):
            figures.save(_picture(norms, layers, biases), args.out, dpi=100)
    for number, layer in enumerate(layers):
        if len(layers) > 1:
            print(f"recurrent layer {number}:")
        print(diagnose(layer.horizon, spectrum=layer.spectrum, gates=layer.gates))
    print(f"drawn in {args.out}")


def _loop_calls(loss: Callable[..., jax.Array], params: Params) -> list[LoopCall]:
    """Returns the arguments `(step, params, carry, xs)` of each call of a loss's loop.

    The loss runs outside jit, so that the arguments are arrays.
    """
    calls: list[LoopCall] = []

    def record(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Carry, PyTree]:
        calls.append((step, params, carry, xs))
        return jaxrnn.bptt(step, params, carry, xs)

    loss(params, loop=record)
    return calls


def _inspect_layer(
    step: Step, params: Params, carry: Carry, xs: PyTree
) -> tuple[JacobianSpectrum, MemoryHorizon, dict[str, jax.Array]]:
    """Returns the Jacobian spectrum, the memory horizon and the saturation of a layer."""
    jacobian_spectrum = functools.partial(
        jaxrnn.diagnostics.jacobian_spectrum, step, probes=MAX_PROBES, key=jax.random.key(0)
    )
    spectrum = jax.jit(jacobian_spectrum)(params, carry, xs)
    states, _ = jaxrnn.history(step, params, xs, carry=carry)
    gates = jaxrnn.diagnostics.saturation(states)
    return spectrum, jaxrnn.diagnostics.memory_horizon(spectrum), gates


def _picture(
    norms: Sequence[jax.Array],
    layers: list[LayerReport],
    biases: dict[str, tuple[TruncationBias, ...]],
) -> Figure:
    """Draws a row of panels for all layers together, and a row for each layer."""
    names = [f"layer {number}" for number in range(len(layers))]
    if len(layers) == 1:
        names = ["this layer"]
    rows = 1 + len(layers)
    figure = Figure(figsize=(18, 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 3)
    plots.plot_gradient_flow(axes[0, 0], norms)
    horizons = {name: layer.horizon for name, layer in zip(names, layers, strict=True)}
    plots.plot_memory_horizon(axes[0, 1], horizons)
    plots.plot_truncation_bias(axes[0, 2], biases)
    for name, layer, (left, middle, right) in zip(names, layers, axes[1:], strict=True):
        plots.plot_per_step_gradients(left, layer.terms)
        plots.plot_jacobian_spectrum(middle, layer.spectrum)
        plots.plot_saturation(right, layer.gates)
        if len(layers) > 1:
            for ax in (left, middle, right):
                ax.set_title(f"{name}: {ax.get_title()}")
    return figure


def story(args: options.Options) -> None:
    """Draws why gradients vanish, on untrained networks with states close to zero."""
    figures.require_writable(args.out)
    size = 32
    # Inputs so small that each Jacobian is that at the zero state, where the slope of tanh is 1.
    xs = 1e-6 * jax.random.normal(jax.random.key(1), (STORY_STEPS, BATCH_SIZE, size))

    def params_with_radius(cell: jaxrnn.Cell, radius: float) -> Params:
        params = cell.init(jax.random.key(0), size)
        return {**params, "w_h": radius * params["w_h"]}

    def horizon(cell: jaxrnn.Cell, radius: float) -> MemoryHorizon:
        jacobian_spectrum = jax.jit(functools.partial(jaxrnn.diagnostics.jacobian_spectrum, cell))
        params = params_with_radius(cell, radius)
        carry = cell.initial_carry((BATCH_SIZE,))
        return jaxrnn.diagnostics.memory_horizon(jacobian_spectrum(params, carry, xs))

    figure = Figure(figsize=(16, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)

    rnn = jaxrnn.elman(size)
    horizons = {f"tanh RNN, radius {r}": horizon(rnn, r) for r in (0.9, 1.0, 1.1)}
    plots.plot_memory_horizon(left, horizons)
    left.set_title("A product of Jacobians vanishes or explodes")

    loops: dict[str, jaxrnn.Loop] = {
        "bptt": jaxrnn.bptt,
        "truncated(50)": jaxrnn.truncated(50),
        "truncated(25)": jaxrnn.truncated(25),
    }
    loss = _sum_of_last_outputs(rnn, xs)
    params = params_with_radius(rnn, 0.9)
    norms: list[jax.Array] = []
    for loop in loops.values():
        norms += jaxrnn.diagnostics.gradient_flow(loss, params, loop=loop).norms
    plots.plot_gradient_flow(middle, norms, label="")
    middle.set_title("Truncation drops what lies before its cut")
    middle.set_yticks(range(len(loops)), [*loops])

    cells: dict[str, jaxrnn.Cell] = {"tanh RNN": rnn}
    for bias in (1.0, 3.0, 5.0):
        cells[f"LSTM, forget bias {bias}"] = jaxrnn.lstm(size, forget_bias=bias)
    plots.plot_memory_horizon(right, {name: horizon(cell, 0.2) for name, cell in cells.items()})
    right.set_title("At radius 0.2 an LSTM has its forget gate")

    figures.save(figure, args.out, dpi=100)
    print(f"drawn in {args.out}")


def _of_run(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """Returns the loss of a saved run on its example, and the parameters of the run."""
    return TASKS[run_folder.load_options(folder, *TASKS).task].example_loss(folder)


def _of_cell(args: options.Options) -> tuple[Callable[..., jax.Array], Params]:
    """Returns a loss of a cell on noise, and the initial parameters of the cell."""
    size = args.hidden_size
    expected = f"a folder of `jaxrnn train`, or one of {options.CELL_NAMES}"
    is_cell = args.what in options.CELL_MAKERS
    check.require(is_cell, "FOLDER_OR_CELL", repr(args.what), expected, options.UserError)
    cell = options.cell_named(args.what, size)
    xs = jax.random.normal(jax.random.key(1), (args.steps, BATCH_SIZE, size))
    return _sum_of_last_outputs(cell, xs), cell.init(jax.random.key(0), size)


def _sum_of_last_outputs(cell: jaxrnn.Cell, xs: jax.Array) -> Callable[..., jax.Array]:
    """Returns the loss `(params, loop) -> sum of the cell's last outputs`."""
    return lambda params, loop: jaxrnn.unroll(cell, params, xs, loop=loop)[1][-1].sum()
