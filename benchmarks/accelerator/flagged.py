"""A child process with an XLA flag that holds for a whole process: scan and bptt, a row a line."""

import json
import os

from benchmarks.accelerator import compiler, sides, supervise
from benchmarks.accelerator.speed import SAMPLE_MS, SHAPES, times
from benchmarks.clock import interleaved

POINTS = [(cell, SHAPES[index]) for index in (0, 4, 3) for cell in ("gru", "lstm")]
NAMES = ("scan", "bptt")


def main() -> None:
    """Compile all, then time point by point."""
    supervise.end_with(os.getppid())
    posed = {at: sides.pose(*at, sides.MODES[0], "gradient") for at in POINTS}
    jobs = {
        (at, name): (lambda at=at, name=name: sides.SIDES[name](posed[at]))
        for at in POINTS
        for name in NAMES
    }
    built = compiler.build(jobs, 60)
    for cell, shape in POINTS:
        programs = {name: compiler.of(built[(cell, shape), name]) for name in NAMES}
        samples = interleaved(programs, 0.3, 7, 40, SAMPLE_MS)
        row = {"work": "gradient", "mode": "float32", "cell": cell, "shape": shape._asdict()}
        print(json.dumps({**row, **times(shape.T, samples)}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
