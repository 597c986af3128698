"""How much memory on chip do the kernels of `fused()` take? The TPU compiler has to accept them."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import tpu
from jaxrnn.loops.derived.jaxprs import Values
from jaxrnn.loops.fused.body import Arrays
from jaxrnn.loops.fused.tpu import TpuKernel

TITLE = (
    "`fused()` compiled for a TPU v5e, T = 128, B = 16, I = H: MiB on chip, forward and backward."
)
CELLS = ("elman", "gru", "lstm")
SIZES = (128, 256, 512, 1024)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def rows(quick: bool) -> list[tuple[str, str, int]]:
    """Returns the arguments of all rows."""
    sizes = SIZES[:1] if quick else SIZES
    every = [(cell, dtype, size) for cell in CELLS for dtype in DTYPES for size in sizes]
    return [] if tpu.missing() else every


def measure(cell_name: str, dtype_name: str, hidden: int) -> dict[str, Any]:
    """Compiles a gradient, and returns the bytes on chip by `TpuKernel.bytes_on_chip`."""
    bytes_on_chip = {}
    run = TpuKernel.run

    def noting_size(kernel: TpuKernel, arrays: Arrays) -> tuple[Values, Values]:
        # The kernel of the outputs alone is traced too, and then again with what is saved.
        bytes_on_chip["backward" if kernel.reverse else "forward"] = kernel.bytes_on_chip
        return run(kernel, arrays)

    jax.clear_caches()  # or what has been traced before is not traced again
    with mock.patch.object(TpuKernel, "run", noting_size):
        cell = dict(jaxrnn.CELLS)[cell_name](hidden)
        tpu.compiled(cell, jaxrnn.fused(), hidden, DTYPES[dtype_name])
    return {"cell": cell_name, "dtype": dtype_name, "H": hidden, "bytes_on_chip": bytes_on_chip}


def summary(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the number of programs, or why there are none."""
    return tpu.summary(measured)


def table(measured: list[dict[str, Any]]) -> str:
    """Returns a Markdown table."""
    if tpu.missing():
        return f"{TITLE}\n\nLeft out: {tpu.missing()}."
    sizes = list(dict.fromkeys(row["H"] for row in measured))
    heads = [f"H = {size}" for size in sizes]
    lines = [f"{TITLE}\n", f"| cell | {' | '.join(heads)} |", "|---" * (1 + len(sizes)) + "|"]
    for cell, dtype in dict.fromkeys((row["cell"], row["dtype"]) for row in measured):
        of_cell = [row for row in measured if (row["cell"], row["dtype"]) == (cell, dtype)]
        lines.append(f"| {cell}, {dtype} | {' | '.join(map(_entry, of_cell))} |")
    return "\n".join(lines)


def _entry(row: dict[str, Any]) -> str:
    return ", ".join(f"{row['bytes_on_chip'][way] / 2**20:.1f}" for way in ("forward", "backward"))
