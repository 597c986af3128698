"""The training loop that both tasks share: its options, its progress bar, what Ctrl-C leaves.

A run leaves a picture too: its metric over the updates, beside that of models without training.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import options, run
from jaxrnn.diagnostics import plots
from jaxrnn.types import Carry, Loop, Network, Params, PyTree

Loss = tuple[
    jax.Array, tuple[Carry, Mapping[str, jax.Array]]
]  # as `jaxrnn.training.trainer` wants it
Row = dict[str, int | float]  # of a table, by column

RECENT = 20  # steps over which the progress bar takes the mean
WINDOWS = 100  # the curve is a running mean over so small a part of the steps


class Task(NamedTuple):
    """What is to be learned: all that the loop need know of it.

    Fields:
        network: what is trained, made by jaxrnn's factories.
        init: `key -> params`.
        loss: `(params, carry, batch, key, loop) -> (loss, (carry, metrics))`; the key draws noise.
        evaluate: `params -> metrics` on the validation part, without noise, "loss" among them.
        batches: one for each update, without end.
        rows: the axis of rows in each part of a batch, None where there is none.
        items: how many things a batch holds.
        unit: what one of them is called.
        measure: which of the metrics to show and draw.
        levels: that metric of models without training, by name.
        example: a batch that is not trained on, its arrays by name.
        carry: the carry before the first batch; None where each batch begins anew.
    """

    network: Network
    init: Callable[[jax.Array], Params]
    loss: Callable[..., Loss]
    evaluate: Callable[[Params], Mapping[str, float]]
    batches: Iterator[PyTree]
    rows: PyTree
    items: int
    unit: str
    measure: str
    levels: Mapping[str, float]
    example: run.Arrays
    carry: Carry = None


@dataclasses.dataclass
class Progress:
    """How far a training is.

    Fields:
        state: after the last update.
        history: a row of metrics for each update.
        validation: a row of metrics for each evaluation.
        norms: ‖∂L/∂c_t‖ of the first recurrent layer, every so many updates.
        best: the update with the least validation loss, and the parameters after it.
    """

    state: jaxrnn.training.TrainState
    history: list[Row] = dataclasses.field(default_factory=list)
    validation: list[Row] = dataclasses.field(default_factory=list)
    norms: list[jax.Array] = dataclasses.field(default_factory=list)
    best: tuple[int, Params] | None = None

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Note the validation metrics of the parameters as they are now."""
        step = int(self.state.step)
        losses = [row["loss"] for row in self.validation if np.isfinite(row["loss"])]
        if metrics["loss"] < min(losses, default=np.inf):
            self.best = step, self.state.params
        self.validation.append({"step": step, **metrics})

    @property
    def diverged(self) -> bool:
        """Whether the last loss is not a finite number."""
        return bool(self.history) and not np.isfinite(self.history[-1]["loss"])

    @property
    def kept(self) -> tuple[int, Params]:
        """The update whose parameters are saved, and these.

        The best so far; the last ones where there is no evaluation, and where the loss is no longer
        a number, so that `jaxrnn inspect` can say where that began.
        """
        last = int(self.state.step), self.state.params
        return last if self.diverged or self.best is None else self.best


def add_options(parser: options.Parser, task: str, **defaults: Any) -> None:
    """The options of every task, with defaults of its own."""
    add, count = parser.add_argument, options.whole(1)
    add("--cell", type=options.cell_name, default="gru", help=options.CELL_NAMES)
    add("--hidden-size", type=count, metavar="N", help="features of the carry")
    add("--layers", type=count, default=1, metavar="N", help="cells, one after another")
    dropout = "share of the outputs of each layer set to zero while training"
    add("--dropout", type=options.rate, default=0.0, metavar="P", help=dropout)
    add("--loop", type=options.loop_name, default="bptt", help=options.LOOP_NAMES)
    add("--batch-size", type=count, metavar="N", help="sequences in an update")
    add("--steps", type=count, metavar="N", help="updates of the parameters")
    add("--learning-rate", type=options.positive, metavar="X", help="of AdamW, at its highest")
    add("--clip", type=options.positive, default=1.0, metavar="X", help="largest gradient norm")
    every = "updates from one score on the validation part to the next; the best one is saved"
    add("--evaluate-every", type=count, default=100, metavar="N", help=every)
    every = "updates from one row of the picture of the gradient to the next"
    add("--inspect-every", type=count, default=100, metavar="N", help=every)
    add("--seed", type=options.whole(0), default=0, metavar="N", help="of all random numbers")
    add("--devices", type=count, default=options.CORES, metavar="N", help="that share each batch")
    add("--out", type=Path, metavar="FOLDER", help="where to save the run")
    overwrite = "replace the run in FOLDER, when the new one is complete"
    add("--overwrite", action="store_true", help=overwrite)
    parser.set_defaults(out=Path("runs", task), **defaults)


def optimizer(chosen: options.Options) -> optax.GradientTransformation:
    """AdamW on clipped gradients; its rate warms up for a twentieth of the steps, then decays."""
    peak, steps = chosen.learning_rate, chosen.steps
    rate = optax.warmup_cosine_decay_schedule(peak / 10, peak, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(chosen.clip), optax.adamw(rate))


def train(task: Task, chosen: options.Options) -> Params:
    """Train, save the run in `chosen.out`, and return the parameters that were saved.

    These are the ones with the least loss on the validation part.

    Raises:
        KeyboardInterrupt: after Ctrl-C, saying where what there was is saved.
        UserError: if the folder cannot be written or holds a run; and, after saving, if the loss is
            no longer a number, or if another run was saved in the folder meanwhile.
    """
    with run.reserved(chosen.out, chosen.overwrite) as earlier:
        devices = _devices(chosen)
        key_params, key = jax.random.split(jax.random.key(chosen.seed))
        trainer = _trainer(task, chosen, devices)
        progress = Progress(trainer.init(task.init(key_params), key, task.carry))
        interrupted = False
        try:
            _advance(progress, task, chosen, trainer, devices[0])
        except KeyboardInterrupt:
            interrupted = True
        step, params = progress.kept
        params = jax.device_put(params, devices[0])
        tables = progress.history, progress.validation
        picture = _picture(progress, task, chosen)
        made = run.Run(task.network, params, chosen, task.example, *tables, picture)
        folder = run.save(chosen.out, made, earlier)
    where = f"after {progress.state.step} of {chosen.steps} steps, saved in {folder}"
    if interrupted:
        raise KeyboardInterrupt(f"interrupted {where}")
    if progress.diverged:
        got = (
            f"{chosen.learning_rate}, which led to a loss of {progress.history[-1]['loss']} {where}"
        )
        raise options.UserError(f"--learning-rate: got {got}, expected a smaller rate")
    got = f"{str(chosen.out)!r}, where another run was saved meanwhile"
    expected = f"a folder that no other training uses; this run is saved in {str(folder)!r}"
    check.require(folder == chosen.out, "--out", got, expected, options.UserError)
    print(f"saved in {folder}: {', '.join(run.FILES)}")
    if progress.best:
        print(f"the parameters are those after update {step}, the best on the validation part")
    return params


def _devices(chosen: options.Options) -> list[jax.Device]:
    """As many devices as can share a batch evenly."""
    devices = jax.devices()[: chosen.devices]
    sharing = np.gcd(chosen.batch_size, len(devices))
    if sharing < len(devices):
        print(f"on {sharing} of {len(devices)} devices: --batch-size is no multiple of these")
    return devices[:sharing]


def _trainer(
    task: Task, chosen: options.Options, devices: Sequence[jax.Device]
) -> jaxrnn.training.Trainer:
    """The trainer of a task over devices; each draws noise of its own."""
    loss = functools.partial(task.loss, loop=options.loop_named(chosen.loop))
    in_axes, out_axes = (None, 0, task.rows, None), (None, (0, None))
    shared = jaxrnn.training.data_parallel(
        loss, in_axes=in_axes, out_axes=out_axes, devices=devices
    )
    return jaxrnn.training.trainer(shared, optimizer(chosen))


def _advance(
    progress: Progress,
    task: Task,
    chosen: options.Options,
    trainer: jaxrnn.training.Trainer,
    device: jax.Device,
) -> None:
    """All updates, or as many as there are before the loss is no longer a number."""

    def value(*args: PyTree, loop: Loop) -> jax.Array:
        return task.loss(*args, loop=loop)[0]

    flow = jax.jit(
        functools.partial(
            jaxrnn.diagnostics.gradient_flow, value, loop=options.loop_named(chosen.loop)
        )
    )
    update = jax.jit(trainer.update)  # donates nothing, so that Ctrl-C finds the last state whole
    start = time.perf_counter()
    with tqdm(total=chosen.steps * task.items, unit=task.unit, unit_scale=True) as bar:
        for count, batch in zip(range(chosen.steps), task.batches, strict=False):
            state = progress.state
            if count % chosen.inspect_every == 0:
                key = jax.random.split(state.key)[1]  # that of the update
                args = state.params, state.carry, batch, key
                progress.norms += flow(*jax.device_put(args, device)).norms[:1]
            progress.state, metrics = update(state, batch)
            numbers = {name: float(metric) for name, metric in metrics.items()}
            seconds = time.perf_counter() - start
            step = count + 1
            progress.history.append({"step": step, "seconds": seconds, **numbers})
            if progress.diverged:
                break
            if step % chosen.evaluate_every == 0 or step == chosen.steps:
                params = jax.device_put(progress.state.params, device)
                progress.evaluated(task.evaluate(params))
            recent = np.mean([row[task.measure] for row in progress.history[-RECENT:]])
            shown = {task.measure: f"{recent:.3f}"}
            if progress.validation:
                shown["validation"] = f"{progress.validation[-1][task.measure]:.3f}"
            bar.set_postfix(shown, refresh=False)
            bar.update(task.items)


def _picture(progress: Progress, task: Task, chosen: options.Options) -> Figure:
    """The learning curve, and beside it the gradient flow."""
    cells = f"{chosen.cell} of {chosen.hidden_size}"
    cells = f"{chosen.layers} layers, {cells}" if chosen.layers > 1 else cells
    title = f"Learning {chosen.task}: {cells}, {chosen.loop}"
    values = [row[task.measure] for row in progress.history]
    scores = {int(row["step"]): row[task.measure] for row in progress.validation}
    best = progress.best and progress.best[0]
    picture = curve(task.measure, values, title, task.levels, scores, best)
    if progress.norms:
        rows = f"updates / {chosen.inspect_every}"
        plots.plot_gradient_flow(picture.add_subplot(1, 2, 2), progress.norms, rows)
    return picture


def curve(
    measure: str,
    values: Sequence[float],
    title: str,
    levels: Mapping[str, float],
    scores: Mapping[int, float] | None = None,
    best: int | None = None,
) -> Figure:
    """The values of each step, smoothed, and a level line for each name, beside an empty half.

    `scores` are values on the validation part by step, and `best` is the step that was selected.
    """
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    (colour, _), (colour_of_scores, _), *looks = zip(plots.COLOURS, plots.STYLES, strict=True)
    if values:
        width = max(1, len(values) // WINDOWS)
        smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axes.plot(np.arange(width, len(values) + 1), smooth, color=colour, label="training")
    if scores:
        look: Any = {"color": colour_of_scores, "marker": ".", "markersize": 4, "linewidth": 1}
        axes.plot([*scores], [*scores.values()], label="validation", **look)
        if best is not None:
            label = f"saved: update {best}"
            axes.plot(best, scores[best], "*", color=colour_of_scores, markersize=12, label=label)
    for (name, level), (colour, style) in zip(levels.items(), looks, strict=False):
        axes.axhline(level, color=colour, linestyle=style, label=name)
    axes.set(xlabel="updates", ylabel=measure.replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure
