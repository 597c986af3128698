"""The training loop of all tasks: its options, its progress bar, checkpoints, and Ctrl-C."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import learning_curve, options, resuming, run_folder
from jaxrnn.cli.events import FORMATS, NO_EVENTS, Events
from jaxrnn.cli.progress import Progress
from jaxrnn.types import Carry, Loop, Network, Params, PyTree

# The result of a loss for `jaxrnn.training.trainer`.
Loss = tuple[jax.Array, tuple[Carry, Mapping[str, jax.Array]]]

RECENT_UPDATES = 20  # the progress bar shows the mean over these


class Task(NamedTuple):
    """A task for the training loop.

    Fields:
        network: the network to train, made by jaxrnn's factories.
        init: `key -> params`.
        loss: `(params, carry, batch, key, loop) -> (loss, (carry, metrics))`; the key draws noise.
        evaluate: `params -> metrics` on the validation part, without noise. One metric is "loss".
        batches: `start -> batches`, an endless iterator of those of the updates from `start` on.
        rows: the axis of rows in each part of a batch; None for a part without rows.
        items: the number of items, such as characters, in a batch.
        unit: the name of an item on the progress bar.
        measure: the metric to show and draw.
        levels: the value of that metric for baselines without training, by name.
        example: the arrays of a batch of the validation part, by name.
        data: a checksum of all data, which is compared where a run is resumed.
        carry: the carry before the first batch; None if batches are independent.
        make_trainer: `optimizer -> trainer`, which runs on one device; None for backpropagation.
    """

    network: Network
    init: Callable[[jax.Array], Params]
    loss: Callable[..., Loss]
    evaluate: Callable[[Params], Mapping[str, float]]
    batches: Callable[[int], Iterator[PyTree]]
    rows: PyTree
    items: int
    unit: str
    measure: str
    levels: Mapping[str, float]
    example: run_folder.Arrays
    data: str
    carry: Carry = None
    make_trainer: Callable[[optax.GradientTransformation], jaxrnn.training.Trainer] | None = None


def add_options(parser: options.Parser, task: str, **defaults: Any) -> None:
    """Adds the options that all tasks have, with the defaults of the task."""
    add = parser.add_argument
    count = options.whole_number(1)
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
    checkpoint = "updates between checkpoints, from which `train --resume` goes on; None for none"
    add("--checkpoint-every", type=count, metavar="N", help=checkpoint)
    log = "show a progress bar, or write one JSON object a line to stdout, with all numbers"
    add("--log", choices=FORMATS, default=FORMATS[0], help=log)
    add("--out", type=Path, metavar="FOLDER", help="where to save the run")
    overwrite = "replace the run in FOLDER when the new one is complete"
    add("--overwrite", action="store_true", help=overwrite)
    parser.set_defaults(out=Path("runs", task), **defaults)


def optimizer(args: options.Options) -> optax.GradientTransformation:
    """Returns AdamW with clipped gradients and a rate that warms up over steps/20, then decays."""
    peak = args.learning_rate
    steps = args.steps
    rate = optax.warmup_cosine_decay_schedule(peak / 10, peak, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(args.clip), optax.adamw(rate))


def train(task: Task, args: options.Options, events: Events = NO_EVENTS) -> Params:
    """Trains, saves the run in `args.out`, and returns the parameters that were saved.

    These are the parameters with the smallest loss on the validation part. If `args.resume` is not
    None, the training goes on from the last checkpoint in `args.out`.

    Raises:
        KeyboardInterrupt: after Ctrl-C and saving, with the name of the folder.
        OSError: if a checkpoint cannot be written.
        UserError: if the folder cannot be written or holds a run; if the last checkpoint cannot be
            restored; after saving, if the loss is not finite, or if another run was saved in the
            folder at the same time.
    """
    is_resumed = args.resume is not None
    with run_folder.reserve(args.out, args.overwrite, is_resumed) as stamps:
        if is_resumed:
            resuming.require_same_data(args.out, task.data)
        else:
            resuming.begin(args.out, args, task.data)
        devices = jax.devices()[:1]
        if task.make_trainer is None:
            devices = _devices(args)
        trainer = _trainer(task, args, devices)
        optimizer_text = _spell_optimizer(args)
        progress = None
        interrupted = False
        try:
            with resuming.RunCheckpoints(args, task.network, optimizer_text) as checkpoints:
                state = _initial_state(task, args, trainer, devices)
                progress = checkpoints.restore(Progress(state))
                is_at = {"steps": args.steps, "step": progress.step}
                events.write("start", network=repr(task.network), **is_at)
                if is_resumed:
                    print(f"resumed after {progress.step} of {args.steps} steps")
                _advance(progress, task, args, trainer, devices, checkpoints, events)
        except KeyboardInterrupt:
            if progress is None:  # nothing to save yet
                raise
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
            curve=learning_curve.picture(progress, task.measure, task.levels, args),
        )
        folder = run_folder.save(args.out, results, stamps)
        # Checkpoints go only now, so that a kill at any moment leaves them or the whole run.
        if not interrupted and not progress.has_diverged:
            resuming.remove(args.out)
    events.write("saved", folder=folder, step=progress.step, saved_step=step)
    where = f"after {progress.step} of {args.steps} steps, saved in {folder}"
    if interrupted:
        message = f"interrupted {where}"
        if args.checkpoint_every is not None:
            message += f"; `train --resume {args.out}` goes on"
        raise KeyboardInterrupt(message)
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
    if task.make_trainer is not None:
        return task.make_trainer(optimizer(args))
    loss = functools.partial(task.loss, loop=options.loop_named(args.loop))
    split_loss = jaxrnn.training.data_parallel(
        loss,
        in_axes=(None, 0, task.rows, None),  # params, carry, batch, key
        out_axes=(None, (0, None)),  # loss, (carry, metrics)
        devices=devices,
    )
    return jaxrnn.training.trainer(split_loss, optimizer(args))


def _spell_optimizer(args: options.Options) -> str:
    """Returns the text that names the optimizer and its options in a checkpoint."""
    return f"adamw(learning_rate={args.learning_rate}, clip={args.clip}, steps={args.steps})"


def _initial_state(
    task: Task,
    args: options.Options,
    trainer: jaxrnn.training.Trainer,
    devices: Sequence[jax.Device],
) -> jaxrnn.training.TrainState:
    """Returns the first state, which lies on the devices as those after each update do.

    So a run that is resumed runs the same programs.
    """
    key_params, key = jax.random.split(jax.random.key(args.seed))
    state = trainer.init(task.init(key_params), key, task.carry)
    if len(devices) == 1:
        return state
    return jax.device_put(state, _shardings(devices))


def _shardings(devices: Sequence[jax.Device]) -> Any:
    """Returns where a state lies: rows of the carry are split, all else is on each device."""
    mesh = jax.sharding.Mesh(devices, ("batch",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    rows = jax.sharding.NamedSharding(mesh, jax.P("batch"))
    # A tree prefix of a state: shardings stand where the types of TrainState have arrays.
    places: Any = jaxrnn.training.TrainState
    return places(everywhere, everywhere, rows, everywhere, everywhere)


def _advance(
    progress: Progress,
    task: Task,
    args: options.Options,
    trainer: jaxrnn.training.Trainer,
    devices: Sequence[jax.Device],
    checkpoints: resuming.RunCheckpoints,
    events: Events,
) -> None:
    """Runs all updates that are left, or stops after the first loss that is not finite."""

    def loss(*loss_args: PyTree, loop: Loop) -> jax.Array:
        return task.loss(*loss_args, loop=loop)[0]

    loop = options.loop_named(args.loop)
    gradient_flow = jax.jit(functools.partial(jaxrnn.diagnostics.gradient_flow, loss, loop=loop))
    shardings = None
    if len(devices) > 1:
        # The state stays where `_initial_state` puts it, so that one program runs all updates.
        shardings = (_shardings(devices), None)
    # No donation: Ctrl-C has to find the last state intact.
    update = jax.jit(trainer.update, out_shardings=shardings)
    first = progress.step
    seconds_before = 0.0
    if progress.history:
        seconds_before = progress.history[-1]["seconds"]
    bar = tqdm(
        total=args.steps * task.items,
        initial=first * task.items,
        unit=task.unit,
        unit_scale=True,
        disable=events.are_written,
    )
    start = time.perf_counter()
    with bar:
        steps = range(first + 1, args.steps + 1)
        for step, batch in zip(steps, task.batches(first), strict=False):
            state = progress.state
            norms = []
            if (step - 1) % args.inspect_every == 0:
                key = jax.random.split(state.key)[1]  # the key that the update will use
                loss_args = jax.device_put((state.params, _carry(state), batch, key), devices[0])
                norms = gradient_flow(*loss_args).norms[:1]
            state, metrics = update(state, batch)
            numbers = {name: float(metric) for name, metric in metrics.items()}
            seconds = time.perf_counter() - start
            row = {"step": step, "seconds": seconds_before + seconds, **numbers}
            evaluation = None
            is_last = step == args.steps
            if np.isfinite(row["loss"]) and (is_last or step % args.evaluate_every == 0):
                evaluation = task.evaluate(jax.device_put(state.params, devices[0]))
            progress.record(state, row, norms, evaluation)
            updates_a_second = (step - first) / max(seconds, 1e-9)
            items_a_second = {f"{task.unit}s_a_second": updates_a_second * task.items}
            seconds_left = (args.steps - step) / updates_a_second
            left = {"steps": args.steps, "seconds_left": seconds_left}
            events.write("update", **row, **items_a_second, **left)
            if evaluation is not None:
                events.write("validation", step=step, **evaluation)
            if progress.has_diverged:
                break
            if checkpoints.is_due(step) and not is_last:
                checkpoints.save(progress)
                events.write("checkpoint", step=step)
            _show(bar, progress, task)


def _carry(state: jaxrnn.training.TrainState) -> Carry:
    """Returns the recurrent state, which an online algorithm keeps together with its influence."""
    if isinstance(state.carry, jaxrnn.online.OnlineState):
        return state.carry.carry
    return state.carry


def _show(bar: tqdm, progress: Progress, task: Task) -> None:
    """Moves the progress bar by an update, and shows the metric in training and held out."""
    recent = np.mean([row[task.measure] for row in progress.history[-RECENT_UPDATES:]])
    shown = {task.measure: f"{recent:.3f}"}
    if progress.validation:
        shown["validation"] = f"{progress.validation[-1][task.measure]:.3f}"
    bar.set_postfix(shown, refresh=False)
    bar.update(task.items)
