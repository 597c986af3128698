"""The training loop of both tasks: its options, its progress bar, and what Ctrl-C saves.

Training also draws a picture: a metric over the updates, and the gradient flow.
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
from jaxrnn.cli import options, run_folder
from jaxrnn.diagnostics import plots
from jaxrnn.types import Carry, Loop, Network, Params, PyTree

# The result of a loss for `jaxrnn.training.trainer`.
Loss = tuple[jax.Array, tuple[Carry, Mapping[str, jax.Array]]]
Row = dict[str, int | float]  # of a table, by column

RECENT_UPDATES = 20  # the progress bar shows the mean over these
WINDOWS = 100  # the curve is a running mean over 1/100 of the updates


class Task(NamedTuple):
    """A task for the training loop.

    Fields:
        network: the network to train, made by jaxrnn's factories.
        init: `key -> params`.
        loss: `(params, carry, batch, key, loop) -> (loss, (carry, metrics))`; the key draws noise.
        evaluate: `params -> metrics` on the validation part, without noise. One metric is "loss".
        batches: an endless iterator of batches, one for each update.
        rows: the axis of rows in each part of a batch; None for a part without rows.
        items: the number of items, such as characters, in a batch.
        unit: the name of an item on the progress bar.
        measure: the metric to show and draw.
        levels: the value of that metric for baselines without training, by name.
        example: the arrays of a batch of the validation part, by name.
        carry: the carry before the first batch; None if batches are independent.
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
    example: run_folder.Arrays
    carry: Carry = None


@dataclasses.dataclass
class Progress:
    """The progress of a training.

    Fields:
        state: the state after the last update.
        history: the metrics of each update.
        validation: the metrics of each evaluation.
        norms: ‖∂L/∂c_t‖ of the first recurrent layer, once every `inspect_every` updates.
        best: the update with the smallest validation loss, and the parameters after it.
    """

    state: jaxrnn.training.TrainState
    history: list[Row] = dataclasses.field(default_factory=list)
    validation: list[Row] = dataclasses.field(default_factory=list)
    norms: list[jax.Array] = dataclasses.field(default_factory=list)
    best: tuple[int, Params] | None = None

    def record_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Records the validation metrics of the current parameters."""
        step = int(self.state.step)
        losses = [row["loss"] for row in self.validation if np.isfinite(row["loss"])]
        if metrics["loss"] < min(losses, default=np.inf):
            self.best = step, self.state.params
        self.validation.append({"step": step, **metrics})

    @property
    def has_diverged(self) -> bool:
        """Whether the last loss is not a finite number."""
        return bool(self.history) and not np.isfinite(self.history[-1]["loss"])

    @property
    def selected(self) -> tuple[int, Params]:
        """The update whose parameters are saved, and these parameters.

        These are the best parameters. They are the last ones if there was no evaluation, or if the
        loss is not finite: then `jaxrnn inspect` can find the first number that is not finite.
        """
        last = int(self.state.step), self.state.params
        return last if self.has_diverged or self.best is None else self.best


def add_options(parser: options.Parser, task: str, **defaults: Any) -> None:
    """Adds the options that all tasks have, with the defaults of the task."""
    add, count = parser.add_argument, options.whole_number(1)
    add("--cell", type=options.cell_name, default="gru", help=options.CELL_NAMES)
    add("--hidden-size", type=count, metavar="N", help="features of the carry")
    add("--layers", type=count, default=1, metavar="N", help="cells, one after another")
    dropout = "share of the outputs of each layer that is set to zero in training"
    add("--dropout", type=options.rate, default=0.0, metavar="P", help=dropout)
    add("--loop", type=options.loop_name, default="bptt", help=options.LOOP_NAMES)
    add("--batch-size", type=count, metavar="N", help="sequences in an update")
    add("--steps", type=count, metavar="N", help="updates of the parameters")
    add("--learning-rate", type=options.positive, metavar="X", help="largest rate of AdamW")
    add("--clip", type=options.positive, default=1.0, metavar="X", help="largest gradient norm")
    evaluate = "updates between evaluations on the validation part; the best parameters are saved"
    add("--evaluate-every", type=count, default=100, metavar="N", help=evaluate)
    inspect = "updates between the rows of the gradient-flow picture"
    add("--inspect-every", type=count, default=100, metavar="N", help=inspect)
    add(
        "--seed",
        type=options.whole_number(0),
        default=0,
        metavar="N",
        help="seed of all random numbers",
    )
    add(
        "--devices",
        type=count,
        default=options.CORES,
        metavar="N",
        help="devices that share each batch",
    )
    add("--out", type=Path, metavar="FOLDER", help="where to save the run")
    overwrite = "replace the run in FOLDER when the new one is complete"
    add("--overwrite", action="store_true", help=overwrite)
    parser.set_defaults(out=Path("runs", task), **defaults)


def optimizer(args: options.Options) -> optax.GradientTransformation:
    """Returns AdamW with clipped gradients and a rate that warms up over steps/20, then decays."""
    peak, steps = args.learning_rate, args.steps
    rate = optax.warmup_cosine_decay_schedule(peak / 10, peak, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(args.clip), optax.adamw(rate))


def train(task: Task, args: options.Options) -> Params:
    """Trains, saves the run in `args.out`, and returns the parameters that were saved.

    These are the parameters with the smallest loss on the validation part.

    Raises:
        KeyboardInterrupt: after Ctrl-C and saving, with the name of the folder.
        UserError: if the folder cannot be written or holds a run; after saving, if the loss is not
            finite, or if another run was saved in the folder at the same time.
    """
    with run_folder.reserve(args.out, args.overwrite) as stamps:
        devices = _devices(args)
        key_params, key = jax.random.split(jax.random.key(args.seed))
        trainer = _trainer(task, args, devices)
        progress = Progress(trainer.init(task.init(key_params), key, task.carry))
        interrupted = False
        try:
            _advance(progress, task, args, trainer, devices[0])
        except KeyboardInterrupt:
            interrupted = True
        step, params = progress.selected
        params = jax.device_put(params, devices[0])
        results = run_folder.Run(
            network=task.network,
            params=params,
            options=args,
            example=task.example,
            history=progress.history,
            validation=progress.validation,
            curve=_picture(progress, task, args),
        )
        folder = run_folder.save(args.out, results, stamps)
    where = f"after {progress.state.step} of {args.steps} steps, saved in {folder}"
    if interrupted:
        raise KeyboardInterrupt(f"interrupted {where}")
    if progress.has_diverged:
        loss = progress.history[-1]["loss"]
        got = f"{args.learning_rate}, which led to a loss of {loss} {where}"
        raise options.UserError(f"--learning-rate: got {got}, expected a smaller rate")
    got = f"{str(args.out)!r}, where another run was saved meanwhile"
    expected = f"a folder that no other training uses; this run is saved in {str(folder)!r}"
    check.require(folder == args.out, "--out", got, expected, options.UserError)
    print(f"saved in {folder}: {', '.join(run_folder.FILES)}")
    if progress.best:
        print(f"the parameters are those after update {step}, the best on the validation part")
    return params


def _devices(args: options.Options) -> list[jax.Device]:
    """Returns the largest number of devices that can share a batch evenly."""
    devices = jax.devices()[: args.devices]
    count = np.gcd(args.batch_size, len(devices))
    if count < len(devices):
        print(f"on {count} of {len(devices)} devices: --batch-size is no multiple of these")
    return devices[:count]


def _trainer(
    task: Task, args: options.Options, devices: Sequence[jax.Device]
) -> jaxrnn.training.Trainer:
    """Returns the trainer of a task over devices; each device draws different noise."""
    loss = functools.partial(task.loss, loop=options.loop_named(args.loop))
    split_loss = jaxrnn.training.data_parallel(
        loss,
        in_axes=(None, 0, task.rows, None),  # params, carry, batch, key
        out_axes=(None, (0, None)),  # loss, (carry, metrics)
        devices=devices,
    )
    return jaxrnn.training.trainer(split_loss, optimizer(args))


def _advance(
    progress: Progress,
    task: Task,
    args: options.Options,
    trainer: jaxrnn.training.Trainer,
    device: jax.Device,
) -> None:
    """Runs all updates, or stops after the first loss that is not finite."""

    def loss(*loss_args: PyTree, loop: Loop) -> jax.Array:
        return task.loss(*loss_args, loop=loop)[0]

    loop = options.loop_named(args.loop)
    gradient_flow = jax.jit(functools.partial(jaxrnn.diagnostics.gradient_flow, loss, loop=loop))
    update = jax.jit(trainer.update)  # no donation: Ctrl-C has to find the last state intact
    start = time.perf_counter()
    with tqdm(total=args.steps * task.items, unit=task.unit, unit_scale=True) as bar:
        for count, batch in zip(range(args.steps), task.batches, strict=False):
            state = progress.state
            if count % args.inspect_every == 0:
                key = jax.random.split(state.key)[1]  # the key that the update will use
                loss_args = jax.device_put((state.params, state.carry, batch, key), device)
                progress.norms += gradient_flow(*loss_args).norms[:1]
            progress.state, metrics = update(state, batch)
            numbers = {name: float(metric) for name, metric in metrics.items()}
            seconds = time.perf_counter() - start
            step = count + 1
            progress.history.append({"step": step, "seconds": seconds, **numbers})
            if progress.has_diverged:
                break
            if step % args.evaluate_every == 0 or step == args.steps:
                params = jax.device_put(progress.state.params, device)
                progress.record_evaluation(task.evaluate(params))
            recent = np.mean([row[task.measure] for row in progress.history[-RECENT_UPDATES:]])
            shown = {task.measure: f"{recent:.3f}"}
            if progress.validation:
                shown["validation"] = f"{progress.validation[-1][task.measure]:.3f}"
            bar.set_postfix(shown, refresh=False)
            bar.update(task.items)


def _picture(progress: Progress, task: Task, args: options.Options) -> Figure:
    """Draws the learning curve and the gradient flow."""
    cells = f"{args.cell} of {args.hidden_size}"
    cells = f"{args.layers} layers, {cells}" if args.layers > 1 else cells
    title = f"Learning {args.task}: {cells}, {args.loop}"
    values = [row[task.measure] for row in progress.history]
    scores = {int(row["step"]): row[task.measure] for row in progress.validation}
    best = progress.best and progress.best[0]
    picture = curve(task.measure, values, title, task.levels, scores, best)
    if progress.norms:
        axes = picture.add_subplot(1, 2, 2)
        plots.plot_gradient_flow(axes, progress.norms, f"updates / {args.inspect_every}")
    return picture


def curve(
    measure: str,
    values: Sequence[float],
    title: str,
    levels: Mapping[str, float],
    scores: Mapping[int, float] | None = None,
    best: int | None = None,
) -> Figure:
    """Draws a smoothed learning curve and the levels of baselines in the left half of a figure.

    Args:
        measure: the name of the metric.
        values: the metric of each update.
        title: the title of the figure.
        levels: the metric of baselines without training, by name.
        scores: the metric on the validation part, by update.
        best: the update that was selected.
    """
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    colour, score_colour, *level_colours = plots.COLOURS
    _, _, *level_styles = plots.STYLES
    if values:
        width = max(1, len(values) // WINDOWS)
        smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axes.plot(np.arange(width, len(values) + 1), smooth, color=colour, label="training")
    if scores:
        look: Any = {"color": score_colour, "marker": ".", "markersize": 4, "linewidth": 1}
        axes.plot([*scores], [*scores.values()], label="validation", **look)
        if best is not None:
            label = f"saved: update {best}"
            axes.plot(best, scores[best], "*", color=score_colour, markersize=12, label=label)
    for (name, level), colour, style in zip(
        levels.items(), level_colours, level_styles, strict=False
    ):
        axes.axhline(level, color=colour, linestyle=style, label=name)
    axes.set(xlabel="updates", ylabel=measure.replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure
