"""Does the TPU compiler accept every cell under every loop, and how much memory does it need?

The value and gradient of a mean-square loss are compiled for one chip of a v5e by the compiler in
`libtpu` (`pip install '.[tpu]'`). The machine needs no TPU.
"""

import importlib.util
import os
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from jaxrnn.loops import backend

TITLE = "Compiled for a TPU v5e: seconds, and temporary KiB by the compiler's analysis."
CELLS = dict(jaxrnn.CELLS)
LOOPS = dict(jaxrnn.LOOPS) | {"fused": jaxrnn.fused()}
# A kernel has no complex numbers.
COMPLEX = ("lru", "s5")


def missing() -> str:
    """Returns why there is no TPU compiler; an empty string if there is one."""
    return "" if importlib.util.find_spec("libtpu") else "libtpu is not installed"


def rows(quick: bool) -> list[tuple[str, str]]:
    """Returns the arguments of all rows."""
    cells = ["lstm"] if quick else list(CELLS)
    pairs = [(cell, loop) for cell in cells for loop in LOOPS]
    return (
        []
        if missing()
        else [pair for pair in pairs if pair[1] != "fused" or pair[0] not in COMPLEX]
    )


def compiled(
    cell: jaxrnn.Cell, loop: jaxrnn.Loop, hidden: int, dtype: Any = jnp.float32
) -> jax.stages.Compiled:
    """Compiles the program for T = 128, B = 16, and I = H."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # There is no TPU to query.
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    chip = jax.sharding.SingleDeviceSharding(topology.devices[0])
    # From this Mosaic learns for which TPU it compiles.
    device = jax.sharding.AbstractDevice("TPU v5 lite", num_cores=1, platform="tpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)

    def loss(params: Any, xs: Any) -> Any:
        return jnp.mean(jaxrnn.unroll(cell, params, xs, loop=loop)[1] ** 2)

    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), hidden, dtype))
    xs = jax.ShapeDtypeStruct((128, 16, *cell.feature_shape(hidden)), dtype)
    grad = jax.jit(jax.value_and_grad(loss), in_shardings=chip, out_shardings=chip)
    with backend.assume("tpu"), jax.sharding.use_abstract_mesh(mesh):
        return grad.lower(params, xs).compile()


def measure(cell_name: str, loop_name: str) -> dict[str, Any]:
    """Returns one row: seconds and temporary bytes."""
    start = time.perf_counter()
    program = compiled(CELLS[cell_name](128), LOOPS[loop_name], 128)
    return {
        "cell": cell_name,
        "loop": loop_name,
        "seconds": round(time.perf_counter() - start, 2),
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }


def summary(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the number of programs, or why there are none."""
    return {"compiled": len(measured), "missing": missing()}


def table(measured: list[dict[str, Any]]) -> str:
    """Returns a Markdown table."""
    if missing():
        return f"{TITLE}\n\nLeft out: {missing()}."
    lines = [f"{TITLE}\n", "| cell | " + " | ".join(LOOPS) + " |", "|---" * (1 + len(LOOPS)) + "|"]
    for cell in dict.fromkeys(row["cell"] for row in measured):
        of_loop = {row["loop"]: row for row in measured if row["cell"] == cell}
        entries = [_entry(of_loop[loop]) if loop in of_loop else "–" for loop in LOOPS]
        lines.append(f"| {cell} | {' | '.join(entries)} |")
    return "\n".join(lines)


def _entry(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.1f}, {row['temporary_bytes'] // 1024}"
