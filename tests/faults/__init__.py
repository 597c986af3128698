"""Faults to plant in the library, one by one, to see that something catches each.

    cd tests
    python -m faults            # all of them
    python -m faults lstm mgu   # those whose name or file contains one of the words

A fault in a gradient has to turn both the laws and the certificate red, a fault in the values of a
cell the comparison with NumPy, a fault in what is built around cells and loops the test that stands
beside it. Nothing of this may be red without a fault, which is looked at first. Exits 1 if any
fault goes unseen. About ten seconds a fault.

A fault has its place in the source of one function, so it stays where it is as long as that source
does (`planting.Fault`). `tests/test_faults.py` checks that each has its place, and that its test is
there.
"""

from faults import (
    command_line,
    derived,
    diagnostics,
    fused,
    fused_gpu,
    gru_cells,
    interop,
    linear_cells,
    loops,
    lstm_cells,
    modern_cells,
    online,
    parallel,
    sequences,
    series,
    simple_cells,
    starts,
    training,
    transforms,
)
from faults.planting import Fault, plant

__all__ = ["FAULTS", "Fault", "plant"]

FAULTS: tuple[Fault, ...] = (
    *simple_cells.FAULTS,
    *gru_cells.FAULTS,
    *lstm_cells.FAULTS,
    *linear_cells.FAULTS,
    *modern_cells.FAULTS,
    *starts.FAULTS,
    *loops.FAULTS,
    *fused.FAULTS,
    *fused_gpu.FAULTS,
    *parallel.FAULTS,
    *derived.FAULTS,
    *transforms.FAULTS,
    *sequences.FAULTS,
    *training.FAULTS,
    *diagnostics.FAULTS,
    *online.FAULTS,
    *interop.FAULTS,
    *command_line.FAULTS,
    *series.FAULTS,
)
