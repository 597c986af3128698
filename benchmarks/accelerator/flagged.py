"""A child process with an XLA flag for the whole process: times scan and bptt, a line a row."""

import json
import os

from benchmarks.accelerator import compiler, sides, supervise
from benchmarks.accelerator.speed import SAMPLE_MS, SHAPES, times
from benchmarks.clock import interleaved

POINTS = [(cell, SHAPES[index]) for index in (0, 4, 3) for cell in ("gru", "lstm")]
NAMES = ("scan", "bptt")


def main() -> None:
    """Compiles all programs, then times them point by point."""
    supervise.end_with(os.getppid())
    task = {at: sides.make_task(*at, sides.MODES[0], "gradient") for at in POINTS}
    jobs = {
        (at, name): (lambda at=at, name=name: sides.SIDES[name](task[at]))
        for at in POINTS
        for name in NAMES
    }
    built = compiler.build(jobs, 60)
    for cell, shape in POINTS:
        programs = {name: compiler.require_built(built[(cell, shape), name]) for name in NAMES}
        samples = interleaved(programs, 0.3, 7, 40, SAMPLE_MS)
        row = {"work": "gradient", "mode": "float32", "cell": cell, "shape": shape._asdict()}
        print(json.dumps({**row, **times(shape.T, samples)}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
