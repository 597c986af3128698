"""What do the numbers say, and what has helped others who had such numbers?"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrnn import check
from jaxrnn.diagnostics.spectrum import JacobianSpectrum, MemoryHorizon
from jaxrnn.types import Array

ADVICE = {
    "chaotic": "cut the gradient by truncated(k), with the state forced to the data at each cut "
    "(Mikhaeil 2022)",
    "exploding": "clip the gradient's norm (Pascanu 2013), by optax.clip_by_global_norm",
    "vanishing": "if the task needs what lies further back, let the state keep more of itself, by "
    "gates (Hochreiter 1997, Cho 2014) with a forget bias above 1 (Gers 2000, Jozefowicz 2015)",
    "saturated": "start from smaller weights (Glorot 2010) or normalise products, as in "
    "layer_norm_lstm (Ba 2016)",
}


class Diagnosis(NamedTuple):
    """What was found of one layer, to be printed.

    Fields:
        findings: a sentence with its numbers for each of "chaotic", "exploding", "vanishing" and
            "saturated" that holds, else for "fine".
        advice: a sentence for each but "fine": what others did about it, and who.
    """

    findings: dict[str, str]
    advice: tuple[str, ...]

    def __str__(self) -> str:
        """Each finding and each advice on a line."""
        findings = [f"{name}: {sentence}" for name, sentence in self.findings.items()]
        return "\n".join([*findings, *(f"  try: {line}" for line in self.advice)])


class Row(NamedTuple):
    """A row's horizon, ‖∂c_T/∂c_0‖₂, rate, and the largest norm with its lag."""

    horizon: int
    end: float
    rate: float
    peak: float
    lag: int


def diagnose(
    horizon: MemoryHorizon,
    *,
    spectrum: JacobianSpectrum | None = None,
    gates: Mapping[str, Array] | None = None,
) -> Diagnosis:
    """The numbers of one recurrent layer in plain sentences, and what to try.

    With limits that are conventions of ours, a row of T steps is

        chaotic      if its largest Lyapunov exponent λ is above 0 and e^{λT} above 10       (1)
        exploding    if ‖∂c_T/∂c_0‖₂ is above 10                                             (2)
        vanishing    if it is not exploding, T is above 0, and its horizon at most T/2       (3)

    and the layer is what at least half of its rows are. A sentence has the numbers of one of these
    rows, the one in the middle by horizon, and says how many they are unless they are all. Beside
    that the layer is

        saturated    if more than half of the values of a gate are near an end               (4)
        fine         if none of (1) to (4) holds                                             (5)

    Where a norm rises above 10 on the way back and falls again, the sentence says so.

    Args:
        horizon: what `memory_horizon` gives; ValueError if it has no rows, or NaN before any growth.
        spectrum: what `jacobian_spectrum` gives, if (1) is to be judged.
        gates: what `saturation` gives, if (4) is.

    Returns:
        A `Diagnosis`. Not for use under jit.

    Source: of (1) R. Vogt et al., "On Lyapunov exponents for RNNs", Frontiers in Applied
    Mathematics and Statistics 8 (2022); of (2) and (3) R. Pascanu, T. Mikolov, Y. Bengio, ICML
    2013. Of the advice: J. Mikhaeil, Z. Monfared, D. Durstewitz, "On the difficulty of learning
    chaotic dynamics with RNNs", NeurIPS 2022; S. Hochreiter, J. Schmidhuber 1997; K. Cho et al.,
    EMNLP 2014; F. Gers, J. Schmidhuber, F. Cummins 2000; R. Jozefowicz, W. Zaremba, I. Sutskever,
    ICML 2015; X. Glorot, Y. Bengio, AISTATS 2010; J. Ba, J. Kiros, G. Hinton, arXiv:1607.06450.
    """
    check.require_instance("horizon", horizon, MemoryHorizon)
    if spectrum is not None:
        check.require_instance("spectrum", spectrum, JacobianSpectrum)
    if gates is not None:
        check.require_type(
            isinstance(gates, Mapping), "gates", gates, "a dict, such as saturation gives"
        )
    check.require_arrays(horizon=horizon, spectrum=spectrum, gates=gates)
    check.require_concrete(horizon=horizon, spectrum=spectrum, gates=gates)
    check.require(np.size(horizon.decay_rate), "horizon", "that of no rows", "of one at least")
    rows, steps = _rows(horizon), len(horizon.spectral) - 1
    exponents: list[float] = []
    if spectrum is not None:
        exponents = np.sort(np.ravel(spectrum.exponents[..., 0])).tolist()
    short = [row for row in rows if row.end <= 10 and 0 < steps >= 2 * row.horizon]
    candidates: Any = (
        ("chaotic", exponents, [e for e in exponents if e * steps > np.log(10)], _chaotic),  # (1)
        ("exploding", rows, [row for row in rows if row.end > 10], _exploding),  # (2)
        ("vanishing", rows, short, _seen),  # (3)
    )
    found = {}
    for name, of, those, sentence in candidates:
        if 0 < len(of) <= 2 * len(those):
            found[name] = sentence(_middle(those), steps) + _share_of_rows(those, of)
    means = {name: np.mean(np.sum(x, axis=-1)) for name, x in (gates or {}).items() if len(x)}
    saturated = [f"{mean:.0%} of {name}" for name, mean in means.items() if mean > 0.5]  # (4)
    if saturated:
        found["saturated"] = f"{' and '.join(saturated)} are near an end of its range"
    if not found:  # (5)
        fine = [row for row in rows if row.end <= 10 and row not in short]
        found["fine"] = _seen(_middle(fine), steps) + _share_of_rows(fine, rows)
    return Diagnosis(found, tuple(ADVICE[name] for name in found if name in ADVICE))


def _rows(horizon: MemoryHorizon) -> list[Row]:
    """By horizon, those of equal ones by what is left at the end."""
    spectral = np.reshape(horizon.spectral, (len(horizon.spectral), -1))
    rows = []
    horizons, rates = np.ravel(horizon.horizon), np.ravel(horizon.decay_rate)
    for norms, steps, rate in zip(spectral.T, horizons, rates, strict=True):
        lag = int(np.argmax(np.where(np.isnan(norms), 0, norms)))
        overflows = np.isnan(norms[-1])
        check.require(
            not overflows or norms[lag] > 10, "horizon", "NaN", "numbers, or growth before it"
        )
        end = np.inf if overflows else norms[-1]
        rows.append(Row(int(steps), float(end), float(rate), float(norms[lag]), lag))
    return sorted(rows)


def _middle(those: Sequence[Any]) -> Any:
    return those[(len(those) - 1) // 2]


def _share_of_rows(those: Sequence[Any], rows: Sequence[Any]) -> str:
    return "" if len(those) == len(rows) else f", in {len(those)} of {len(rows)} rows"


def _chaotic(exponent: float, steps: int) -> str:
    doubled = f"what differs a little differs twice as much {np.log(2) / exponent:.3g} steps later"
    return f"the largest Lyapunov exponent is {exponent:.3g} nats a step, {doubled}"


def _exploding(row: Row, steps: int) -> str:
    if np.isinf(row.end):
        return f"a gradient grows beyond the largest number in {_steps(steps)}"
    return f"a gradient grows {row.end:.3g} times in {_steps(steps)}, {row.rate:.3g} a step"


def _seen(row: Row, steps: int) -> str:
    """How far a row sees back, how that compares with the sequence, what is left at its far end."""
    if steps == 0:
        return "there is no step to see back"
    share = "all" if row.horizon >= steps else "more than half"
    share = "at most half" if 2 * row.horizon <= steps else share
    horizon = "all" if share == "all" else f"{row.horizon} of"
    left = f"{100 * row.end:.3g}% of a gradient is left"
    if row.end >= 1.005:
        left = f"a gradient is {row.end:.3g} times as large"
    way = ""
    if row.peak > 10:
        way = f", though {row.peak:.3g} times as large on the way, {_steps(row.lag)} back"
    return (
        f"it sees {horizon} {_steps(steps)} back, {row.rate:.3g} left each step; "
        f"that is {share} of the sequence, and {left} at its far end{way}"
    )


def _steps(number: int) -> str:
    return f"{number} step{'s' if number != 1 else ''}"
