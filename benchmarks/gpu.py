"""Counts what a time step launches on a GPU, in programs compiled for an H100 without a GPU.

    pip install '.[gpu-compile]'
    python -m benchmarks gpu --json FILE

The time of a loop on a GPU is bound by its launches, so their number predicts the time. `python -m
benchmarks accelerator` measures the time on a GPU. Each row is the value and gradient of a
mean-square loss for parameters, carry and inputs. The count is over the whole program: an
instruction in the body of a loop counts as often as the loop runs.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import logging
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SHAPE = (512, 64, 256, 256)  # T, B, I, H
QUICK_SHAPE = (128, 16, 64, 128)
STEPS = ("elman", "gru", "lstm", "gru, plain")
# Cells that are linear in their carry, over a long sequence.
LINEAR_SHAPE = (16384, 8, 128, 128)
LINEAR_STEPS = ("lru", "min_gru")
LINEAR_LOOPS = ("scan", "bptt", "parallel", "parallel in chunks")
# Where the recurrent kernel of a gated cell fits into the shared memory of one multiprocessor.
KERNEL_SHAPE = (512, 64, 128, 128)
KERNEL_STEPS = ("elman", "gru", "lstm")
KERNEL_LOOPS = ("scan", "bptt", "fused")
# Instructions that need at least one kernel, or a copy by the driver. The others launch nothing.
LAUNCHING = {
    *("fusion", "fusion-start", "custom-call", "copy", "copy-start", "dot", "convolution"),
    *("dynamic-slice", "dynamic-update-slice", "reduce", "sort", "concatenate", "scatter"),
}

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Computation(NamedTuple):
    """A computation of a compiled program.

    Fields:
        launches: the number of its instructions that launch.
        loops: for each of its while loops, the name of the body and the number of iterations.
    """

    launches: int
    loops: list[tuple[str, int]]


def missing() -> str:
    """Returns why there is no GPU compiler; an empty string if there is one."""
    for package in ("jax_plugins.xla_cuda13", "nvidia.cu13"):
        try:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        except ModuleNotFoundError:
            return f"{package} is not installed"
    return ""


def prepare() -> Any:
    """Returns the device to compile for; has to be called before JAX is first used."""
    toolkit = _folder("nvidia") / "cu13"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_gpu_cuda_data_dir={toolkit} {flags}"
    os.environ["PATH"] = f"{toolkit / 'bin'}{os.pathsep}{os.environ['PATH']}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jax._src import xla_bridge
    from jax._src.lib import xla_client
    from jax.experimental import topologies

    # Without cuDNN, the registration by the plugin itself fails with a long message.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.CRITICAL + 1)
    library = str(_folder("jax_plugins") / "xla_cuda13" / "xla_cuda_plugin.so")
    api = xla_bridge.register_plugin("cuda", priority=1, library_path=library, options={})
    if not xla_client.pjrt_plugin_loaded("cuda"):
        xla_client.load_pjrt_plugin_dynamically("cuda", library)
    if not xla_client.pjrt_plugin_initialized("cuda"):
        xla_client.initialize_pjrt_plugin("cuda")
    # So that the compiler knows the calls of libraries, such as cuDNN's LSTM.
    from jax_cuda13_plugin import cuda_plugin_extension

    register = functools.partial(cuda_plugin_extension.register_custom_call_target, api)
    xla_client.register_custom_call_handler("CUDA", register)
    topology = topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=H100)
    return topology.devices[0]


def _folder(package: str) -> pathlib.Path:
    locations = importlib.util.find_spec(package).submodule_search_locations  # type: ignore
    return pathlib.Path(next(iter(locations)))


def measure(device: Any, step_name: str, loop_name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns one row: launches per time step, temporary bytes, and seconds of compilation."""
    import jax
    import jax.numpy as jnp

    import jaxrnn
    from jaxrnn.loops import backend

    cell = dict(jaxrnn.CELLS)[step_name.partition(",")[0]](shape[3])
    step = functools.partial(cell) if step_name.endswith("plain") else cell
    loops = dict(jaxrnn.LOOPS) | {
        "parallel": jaxrnn.parallel(),
        "parallel in chunks": jaxrnn.parallel(chunk=2048),
        "fused": jaxrnn.fused(),
    }
    loop = loops[loop_name]
    sharding = jax.sharding.SingleDeviceSharding(device)

    def loss(params: Any, carry: Any, xs: Any) -> Any:
        return jnp.mean(loop(step, params, carry, xs)[1] ** 2)

    def on_device(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    steps, batch, inputs, _ = shape
    params = jax.eval_shape(lambda key: cell.init(key, inputs), jax.random.key(0))
    carry = jax.eval_shape(lambda: cell.initial_carry((batch,)))
    xs = jax.ShapeDtypeStruct((steps, batch, inputs), jnp.float32)
    begin = time.perf_counter()
    with backend.assume("gpu"):
        gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        program = gradient.lower(*on_device((params, carry, xs))).compile()
    return {
        "step": step_name,
        "loop": loop_name,
        "shape": shape,
        "launches": (total := launches(program.as_text() or "")),
        "launches_a_step": round(total / steps, 2),
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def launches(hlo: str) -> int:
    """Returns the number of kernels and copies that a compiled program launches in one run."""
    computations, entry = parse(hlo)

    @functools.cache
    def count(name: str) -> int:
        computation = computations[name]
        return computation.launches + sum(times * count(body) for body, times in computation.loops)

    return count(entry)


def parse(hlo: str) -> tuple[Mapping[str, Computation], str]:
    """Returns the computations of a compiled program by name, and the name of the entry."""
    computations, entry = {}, ""
    for text in re.split(r"\n(?=%|ENTRY)", hlo):
        head = re.match(r"(ENTRY )?%?([\w.\-]+)", text)
        if head is None:
            continue
        loops = []
        for line in text.splitlines():
            body = re.search(r" while\(.*body=%?([\w.\-]+)", line)
            if body is None:
                continue
            times = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
            if times is None:
                raise ValueError(f"hlo: got a loop of unknown length, {line.strip()[:80]}")
            loops.append((body[1], int(times[1])))
        operations = re.findall(r"\s=\s.*?\s([a-z][a-z0-9\-]*)\(", text)
        launching = sum(operation in LAUNCHING for operation in operations)
        computations[head[2]] = Computation(launching, loops)
        entry = head[2] if head[1] else entry
    return computations, entry


def table(content: Mapping[str, Any]) -> str:
    """Returns Markdown tables: launches per step, and of whole programs; MiB of memory."""
    rows = content["rows"]
    head = f"Compiled for an {content['device']} by JAX {content['jax']}"
    kernels = [row for row in rows if tuple(row["shape"]) == KERNEL_SHAPE]
    linear = [row for row in rows if tuple(row["shape"]) == LINEAR_SHAPE]
    short = [row for row in rows if tuple(row["shape"]) not in (KERNEL_SHAPE, LINEAR_SHAPE)]
    tables = [
        f"{head}, {_sizes(short)}: launches a time step (forward and backward pass), MiB of "
        "temporary memory.\n",
        *_lines(short, lambda row: f"{row['launches_a_step']:.1f}"),
    ]
    for whole in (kernels, linear):
        if whole:
            tables += [
                f"\n{head}, {_sizes(whole)}: launches of the whole program, MiB of temporary "
                "memory.\n",
                *_lines(whole, lambda row: f"{row['launches']:,}"),
            ]
    return "\n".join(tables)


def _sizes(rows: list[dict[str, Any]]) -> str:
    return f"T, B, I, H = {', '.join(map(str, rows[0]['shape']))}"


def _lines(rows: list[dict[str, Any]], number: Callable[[dict[str, Any]], str]) -> list[str]:
    """Returns a table with a line for each step and a column for each loop."""
    loops = list(dict.fromkeys(row["loop"] for row in rows))
    lines = [f"| step | {' | '.join(loops)} |", "|---" * (1 + len(loops)) + "|"]
    for step in dict.fromkeys(row["step"] for row in rows):
        cells = [
            f"{number(row)}, {row['temporary_bytes'] >> 20}" for row in rows if row["step"] == step
        ]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return lines


def main(arguments: list[str], show: Callable[[str], None] = print) -> int:
    """Compiles all programs and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description="What does a time step launch on a GPU?"
    )
    parser.add_argument("--quick", action="store_true", help="a small shape, two loops")
    parser.add_argument("--json", type=pathlib.Path, help="file for the numbers")
    options = parser.parse_args(arguments)
    reason = missing()
    if reason:
        show(f"Left out: {reason} (pip install '.[gpu-compile]').")
        return 0
    device = prepare()
    import jax
    import tqdm

    import jaxrnn

    # The Jacobians of `parallel:dense` would take gigabytes.
    all_loops = [name for name, _ in jaxrnn.LOOPS if not name.startswith("parallel")]
    loops = ["scan", "bptt"] if options.quick else all_loops
    shape = QUICK_SHAPE if options.quick else SHAPE
    programs = [(step, loop, shape) for step in STEPS for loop in loops]
    if not options.quick:
        pairs = itertools.product(LINEAR_STEPS, LINEAR_LOOPS)
        programs += [(step, loop, LINEAR_SHAPE) for step, loop in pairs]
        pairs = itertools.product(KERNEL_STEPS, KERNEL_LOOPS)
        programs += [(step, loop, KERNEL_SHAPE) for step, loop in pairs]
    rows = [measure(device, *program) for program in tqdm.tqdm(programs, unit="program")]
    content = {"device": str(device.device_kind), "jax": jax.__version__, "rows": rows}
    show(table(content))
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
