"""Diagnoses a recurrent layer from its numbers, and says what the literature advises."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

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


Row = TypeVar("Row")


class Diagnosis(NamedTuple):
    """The diagnosis of one recurrent layer; prints as text.

    Fields:
        findings: a sentence with its numbers for each of "chaotic", "exploding", "vanishing" and
            "saturated" that holds. If none holds, a sentence for "fine".
        advice: a sentence for each finding except "fine": what the literature advises, with its
            source.
    """

    findings: dict[str, str]
    advice: tuple[str, ...]

    def __str__(self) -> str:
        """One line for each finding and each piece of advice."""
        findings = [f"{name}: {sentence}" for name, sentence in self.findings.items()]
        return "\n".join([*findings, *(f"  try: {line}" for line in self.advice)])


class _BatchRow(NamedTuple):
    """The numbers of one row of the batch.

    Fields:
        horizon: the largest lag whose norm is not below the threshold.
        last_norm: ‖∂c_T/∂c_0‖₂.
        rate: the fitted decay rate.
        peak: the largest norm.
        peak_lag: the lag of the largest norm.
    """

    horizon: int
    last_norm: float
    rate: float
    peak: float
    peak_lag: int


def diagnose(
    horizon: MemoryHorizon,
    *,
    spectrum: JacobianSpectrum | None = None,
    gates: Mapping[str, Array] | None = None,
) -> Diagnosis:
    """Describes the numbers of one recurrent layer in sentences, with advice.

    The limits are conventions of jaxrnn. A row of T steps is

        chaotic      if its largest Lyapunov exponent λ is above 0 and e^{λT} above 10       (1)
        exploding    if ‖∂c_T/∂c_0‖₂ is above 10                                             (2)
        vanishing    if it is not exploding, T is above 0, and its horizon at most T/2       (3)

    and the layer is what at least half of its rows are. Each sentence quotes the numbers of one of
    these rows: the median row by horizon. It also says how many rows these are, unless all rows
    are. Independently of (1) to (3), the layer is

        saturated    if more than half of the values of a gate are near an end               (4)
        fine         if none of (1) to (4) holds                                             (5)

    If a norm rises above 10 on the way back and falls again, the sentence says so.

    Args:
        horizon: the result of `memory_horizon`. ValueError if it has no rows, or if a norm is NaN
            although no norm before it exceeds 10.
        spectrum: the result of `jacobian_spectrum`; needed for (1).
        gates: the result of `saturation`; needed for (4).

    Returns:
        A `Diagnosis`. `diagnose` does not work under jit.

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
        is_mapping = isinstance(gates, Mapping)
        check.require_type(is_mapping, "gates", gates, "a dict, such as saturation gives")
    check.require_arrays(horizon=horizon, spectrum=spectrum, gates=gates)
    check.require_concrete(horizon=horizon, spectrum=spectrum, gates=gates)
    check.require(np.size(horizon.decay_rate), "horizon", "no rows", "at least one row")

    rows = _sorted_rows(horizon)
    steps = len(horizon.spectral) - 1
    exponents: list[float] = []
    if spectrum is not None:
        exponents = np.sort(np.ravel(spectrum.exponents[..., 0])).tolist()
    chaotic = [exponent for exponent in exponents if exponent * steps > np.log(10)]  # (1)
    exploding = [row for row in rows if row.last_norm > 10]  # (2)
    others = [row for row in rows if row.last_norm <= 10]
    vanishing = [row for row in others if 0 < steps >= 2 * row.horizon]  # (3)

    findings: dict[str, str] = {}
    if _is_at_least_half(chaotic, exponents):
        share = _share_of_rows(chaotic, exponents)
        findings["chaotic"] = _describe_chaos(_median(chaotic)) + share
    if _is_at_least_half(exploding, rows):
        share = _share_of_rows(exploding, rows)
        findings["exploding"] = _describe_growth(_median(exploding), steps) + share
    if _is_at_least_half(vanishing, rows):
        share = _share_of_rows(vanishing, rows)
        findings["vanishing"] = _describe_memory(_median(vanishing), steps) + share
    if saturated := _saturated_gates(gates or {}):  # (4)
        findings["saturated"] = f"{' and '.join(saturated)} are near an end of its range"
    if not findings:  # (5)
        fine = [row for row in others if row not in vanishing]
        share = _share_of_rows(fine, rows)
        findings["fine"] = _describe_memory(_median(fine), steps) + share
    return Diagnosis(findings, tuple(ADVICE[name] for name in findings if name in ADVICE))


def _sorted_rows(horizon: MemoryHorizon) -> list[_BatchRow]:
    """Returns the rows sorted by horizon, then by the last norm."""
    spectral = np.reshape(horizon.spectral, (len(horizon.spectral), -1))
    horizons = np.ravel(horizon.horizon)
    rates = np.ravel(horizon.decay_rate)
    rows: list[_BatchRow] = []
    for norms, steps, rate in zip(spectral.T, horizons, rates, strict=True):
        peak_lag = int(np.argmax(np.where(np.isnan(norms), 0, norms)))
        peak = float(norms[peak_lag])
        # Where a product of Jacobians overflows, its norm is NaN.
        overflows = np.isnan(norms[-1])
        check.require(not overflows or peak > 10, "horizon", "NaN", "numbers, or growth before it")
        last_norm = np.inf if overflows else norms[-1]
        rows.append(_BatchRow(int(steps), float(last_norm), float(rate), peak, peak_lag))
    return sorted(rows)


def _saturated_gates(gates: Mapping[str, Array]) -> list[str]:
    """Returns a phrase such as "90% of saved.f" for each gate that (4) holds for."""
    phrases: list[str] = []
    for name, shares in gates.items():
        if len(shares):
            mean = np.mean(np.sum(shares, axis=-1))
            if mean > 0.5:
                phrases.append(f"{mean:.0%} of {name}")
    return phrases


def _is_at_least_half(some: Sequence[Any], rows: Sequence[Any]) -> bool:
    return 0 < len(rows) <= 2 * len(some)


def _median(rows: Sequence[Row]) -> Row:
    """Returns the middle one of sorted rows, so that a sentence quotes one row that exists."""
    return rows[(len(rows) - 1) // 2]


def _share_of_rows(some: Sequence[Any], rows: Sequence[Any]) -> str:
    return "" if len(some) == len(rows) else f", in {len(some)} of {len(rows)} rows"


def _describe_chaos(exponent: float) -> str:
    steps = np.log(2) / exponent
    return (
        f"the largest Lyapunov exponent is {exponent:.3g} nats a step, "
        f"so a small difference of states doubles in {steps:.3g} steps"
    )


def _describe_growth(row: _BatchRow, steps: int) -> str:
    if np.isinf(row.last_norm):
        return f"a gradient grows beyond the largest number in {_steps(steps)}"
    return f"a gradient grows {row.last_norm:.3g} times in {_steps(steps)}, {row.rate:.3g} a step"


def _describe_memory(row: _BatchRow, steps: int) -> str:
    """Says how far back a row sees, which share of the sequence that is, and what is left."""
    if steps == 0:
        return "there is no step to see back"
    if row.horizon >= steps:
        share = "all"
    elif 2 * row.horizon > steps:
        share = "more than half"
    else:
        share = "at most half"
    horizon = "all" if share == "all" else f"{row.horizon} of"
    left = f"{100 * row.last_norm:.3g}% of a gradient is left"
    if row.last_norm >= 1.005:
        left = f"a gradient is {row.last_norm:.3g} times as large"
    peak = ""
    if row.peak > 10:
        peak = f", though {row.peak:.3g} times as large on the way, {_steps(row.peak_lag)} back"
    return (
        f"it sees {horizon} {_steps(steps)} back, {row.rate:.3g} left each step; "
        f"that is {share} of the sequence, and {left} at its far end{peak}"
    )


def _steps(number: int) -> str:
    return f"{number} step{'s' if number != 1 else ''}"
