"""The result of `certify`: a table of comparisons."""

from typing import NamedTuple

import numpy as np


class Comparison(NamedTuple):
    """One comparison of one array with one reference.

    Fields:
        step: the name of the step.
        loop: the name of the loop.
        backward: the backward pass that ran: "handwritten", "derived", "autodiff", or "unknown" for
            a loop that is not part of jaxrnn.
        reference: "values of scan", "autodiff", "finite differences", or "float64 (in float32)",
            with the narrow dtype.
        array: "params['w_h']", "carry", "xs", …; for values "carry_T.h", "ys", ….
        error: ‖a - b‖ / ‖b‖. For a float64 reference it is the median of all draws. Otherwise it is
            the worst of all draws, except for one difference that met a kink (relu).
        limit: the largest error allowed.
    """

    step: str
    loop: str
    backward: str
    reference: str
    array: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the error is within its limit; False for NaN."""
        return bool(self.error <= self.limit)

    def excess(self) -> float:
        """Returns the error divided by its limit; infinity for NaN."""
        if np.isnan(self.error):
            return np.inf
        return self.error / self.limit

    def group(self) -> tuple[str, str, str, str]:
        """Returns what comparisons of different arrays share: all names but that of the array."""
        return self.step, self.loop, self.backward, self.reference


class Certificate(NamedTuple):
    """All comparisons of a loop with its references; prints as a table.

    Fields:
        rows: a `Comparison` for each array and reference.
    """

    rows: tuple[Comparison, ...]

    @property
    def ok(self) -> bool:
        """Whether there are comparisons and all of them are within their limits."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def worst(self) -> "Certificate":
        """Returns, for each step, loop and reference, only the comparison with the largest excess.

        Of comparisons with the same excess, the first is kept.
        """
        worst: dict[tuple[str, str, str, str], Comparison] = {}
        for row in self.rows:
            group = row.group()
            if group not in worst or row.excess() > worst[group].excess():
                worst[group] = row
        return Certificate(tuple(row for row in self.rows if worst[row.group()] is row))

    def __str__(self) -> str:
        lines = [(*Comparison._fields, "")]
        for row in self.rows:
            status = "ok" if row.ok else "OUT"
            numbers = (f"{row.error:.1e}", f"{row.limit:.1e}")
            lines.append((*row.group(), row.array, *numbers, status))
        # Each column is as wide as its longest entry.
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        num_out = sum(not row.ok for row in self.rows)
        return "\n".join([*table, f"{len(self.rows)} comparisons, {num_out} out of limits"])
