"""One of many processes: checks a gradient over all of them, then runs docs/many_processes.py."""

import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "many_processes.py"


def check_gradient():
    """Raises an AssertionError unless the gradient over all processes is that of one."""
    cell, draws = jaxrnn.lstm(4), np.random.default_rng(0)
    with jax.enable_x64(True):
        params = cell.init(jax.random.key(0), 3, jnp.float64)
        xs, targets = draws.normal(size=(6, 8, 3)), draws.normal(size=(6, 8, 4))
        mask = np.arange(6)[:, None] < np.arange(8) % 7  # a different number of steps a row

        def loss(params, xs, targets, mask):
            _, ys = jaxrnn.unroll(cell, params, xs, mask=mask)
            return jaxrnn.masked_mean(lambda y, t: (y - t) ** 2, ys, targets, mask=mask)

        split = jaxrnn.training.data_parallel(
            loss, in_axes=(None, 1, 1, 1), weight=lambda params, xs, targets, mask: mask.sum()
        )
        got = jax.jit(jax.grad(split))(params, xs, targets, mask)
        wanted = jax.grad(loss)(params, xs, targets, mask)

        def require_close(a, b):
            a = np.asarray(a)  # the same in every process
            assert np.linalg.norm(a - b) <= 1e-12 * np.linalg.norm(b)

        jax.tree.map(require_close, got, wanted)


def main():
    module = runpy.run_path(str(SCRIPT))
    train = module["train"]

    def checked(options):
        assert jax.process_count() == options.processes
        check_gradient()
        print("the gradient is that of one process", flush=True)
        train(options)

    module["main"].__globals__["train"] = checked
    module["main"]()


if __name__ == "__main__":
    sys.exit(main())
