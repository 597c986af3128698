"""Online learning: gradients through all the past, before the sequence ends.

A learner is a pair of pure functions for a Step whose output is its loss:

    init(params, carry) -> state
    update(params, state, xs) -> (grads, state, losses)

`update` runs one step or more, and returns the gradient of the mean of their losses through *all*
past steps, in memory that does not grow with their number.

    rtrl    exact; cheap for elementwise recurrences, expensive for dense cells
    snap    biased; keeps what a weight influences within n steps
    eprop   biased; follows a unit's own memory alone
    uoro    unbiased, and noisy

`trainer` updates the parameters by optax at every call.

Each file answers one question:

    rows        What is the step of one row, as a function of real numbers?
    sparsity    Which elements of a value can depend on which elements of another?
    plan        Which numbers of the influence ∂c_t/∂w are kept?
    influence   How do they advance by one step?
    cuts        Where does e-prop cut the recurrent connections?
    products    How is J_t computed where only a few of its numbers are needed?
    learner     What do all algorithms share?
"""

from jaxrnn.online.algorithms import eprop as eprop, rtrl as rtrl, snap as snap
from jaxrnn.online.learner import Learner as Learner, OnlineState as OnlineState
from jaxrnn.online.trainer import OnlineInputs as OnlineInputs, trainer as trainer
from jaxrnn.online.uoro import uoro as uoro

# All learners, by name; each takes a step.
LEARNERS = (("rtrl", rtrl), ("snap", snap), ("eprop", eprop), ("uoro", uoro))
