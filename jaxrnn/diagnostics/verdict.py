"""What do the numbers say, and what has helped others who had such numbers?"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrnn import check
from jaxrnn.diagnostics.spectrum import Reach, Spectrum
from jaxrnn.types import Array

ADVICE = {
    "chaotic": "force the state to the data and cut there, truncated(k) (Mikhaeil 2022)",
    "exploding": "clip the gradient's norm (Pascanu 2013), or every adjoint, clipped (Graves 2013)",
    "vanishing": "gates (Hochreiter 1997, Cho 2014), a forget bias above 1 (Gers 2000, Jozefowicz "
    "2015), an orthogonal start (Saxe 2014); truncated(k) there loses little (Williams 1990)",
    "saturated": "smaller starting weights (Glorot 2010), normalised products (Ba 2016)",
}


class Verdict(NamedTuple):
    """What was found of one layer, to be printed.

    Fields:
        findings: a sentence with its numbers for each of "chaotic", "exploding", "vanishing" and
            "saturated" that holds, else for "fine".
        advice: for each, what others did about it, and who.
    """

    findings: dict[str, str]
    advice: tuple[str, ...]

    def __str__(self) -> str:
        """Each finding and each advice on a line."""
        findings = [f"{name}: {sentence}" for name, sentence in self.findings.items()]
        return "\n".join([*findings, *(f"  try: {line}" for line in self.advice)])


def verdict(
    reach: Reach, spectrum: Spectrum | None = None, gates: Mapping[str, Array] | None = None
) -> Verdict:
    """The numbers of one recurrent layer in plain sentences, and what to try.

    With the median over rows, and limits that are conventions of ours, a layer is

        chaotic      if its largest Lyapunov exponent λ is above 0 and e^{λT} above 10       (1)
        exploding    if ‖∂c_T/∂c_0‖₂ is above 10                                             (2)
        vanishing    if its horizon is shorter than the sequence                             (3)
        saturated    if more than half of the values of a gate are near an end               (4)

    Args:
        reach: what `reach` gives.
        spectrum: what `spectrum` gives, if (1) is to be judged.
        gates: what `saturation` gives, if (4) is.

    Returns:
        A `Verdict`. Not for use under jit.

    Source: of (1) R. Vogt et al., "On Lyapunov exponents for RNNs", Frontiers in Applied
    Mathematics and Statistics 8 (2022); of (2) and (3) R. Pascanu, T. Mikolov, Y. Bengio, ICML
    2013. Of the advice: J. Mikhaeil, Z. Monfared, D. Durstewitz, "On the difficulty of learning
    chaotic dynamics with RNNs", NeurIPS 2022; A. Graves, arXiv:1308.0850; A. Saxe, J. McClelland,
    S. Ganguli, ICLR 2014; S. Hochreiter, J. Schmidhuber 1997; K. Cho et al., EMNLP 2014; F. Gers,
    J. Schmidhuber, F. Cummins 2000; R. Jozefowicz, W. Zaremba, I. Sutskever, ICML 2015;
    R. Williams, J. Peng 1990; X. Glorot, Y. Bengio, AISTATS 2010; J. Ba, J. Kiros, G. Hinton,
    arXiv:1607.06450.
    """
    check.instance("reach", reach, Reach)
    if spectrum is not None:
        check.instance("spectrum", spectrum, Spectrum)
    if gates is not None:
        check.kind(isinstance(gates, Mapping), "gates", gates, "a dict, such as saturation gives")
    check.arrays(reach=reach, spectrum=spectrum, gates=gates)
    check.concrete(reach=reach, spectrum=spectrum, gates=gates)
    check.that(np.size(reach.rate), "reach", "that of no rows", "of one at least")
    steps = len(reach.spectral) - 1
    rate, horizon, end = map(np.median, (reach.rate, reach.horizon, reach.spectral[-1]))
    largest = -np.inf if spectrum is None else float(np.median(spectrum.exponents[..., 0]))
    found = {}
    if largest > 0 and largest * steps > np.log(10):  # (1)
        found["chaotic"] = f"the largest Lyapunov exponent is {largest:.3g} nats a step"
    if end > 10:  # (2)
        found["exploding"] = f"a gradient grows {end:.3g} times in {steps} steps, {rate:.3g} a step"
    if horizon < steps:  # (3)
        found["vanishing"] = f"it sees {horizon:g} of {steps} steps back, {rate:.3g} left each step"
    for name, shares in (gates or {}).items():
        if len(shares) and (share := float(np.mean(np.sum(shares, axis=-1)))) > 0.5:  # (4)
            found["saturated"] = f"{share:.0%} of {name} are near an end of its range"
    if not found:
        found["fine"] = f"it sees all {steps} steps back, {rate:.3g} left each step"
    return Verdict(found, tuple(ADVICE[name] for name in found if name in ADVICE))
