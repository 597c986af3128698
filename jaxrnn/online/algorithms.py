"""RTRL, and the two algorithms that keep or follow a part of it: SnAp and e-prop."""

import dataclasses

from jaxrnn import check
from jaxrnn.expression import name_of
from jaxrnn.online.influence import SparseInfluence
from jaxrnn.online.learner import Learner
from jaxrnn.online.plan import plan
from jaxrnn.online.rows import Arguments, RowStep, widest
from jaxrnn.online.sparsity import LONGEST_AXIS
from jaxrnn.types import Step


@dataclasses.dataclass(frozen=True, repr=False)
class SparseLearner(Learner):
    """A learner that keeps numbers of the influence matrix, up to a limit of memory."""

    step: Step
    _: dataclasses.KW_ONLY
    memory_limit: int | str = 2**30

    def __post_init__(self) -> None:
        check.require_callable("step", self.step, takes=3)
        self.replace_fields(memory_limit=check.parse_bytes("memory_limit", self.memory_limit))


@dataclasses.dataclass(frozen=True, repr=False)
class rtrl(SparseLearner):
    """Real-time recurrent learning: the exact gradient, without a backward pass.

    The influence S_t = ∂c_t/∂w of the weights on the carry is carried along,

        S_t     = J_t S_{t-1} + D_t,    J_t = ∂c_t/∂c_{t-1},    D_t = ∂c_t/∂w at c_{t-1} held    (1)
        ∂ℓ_t/∂w = (∂ℓ_t/∂c_{t-1}) S_{t-1} + ∂ℓ_t/∂w at c_{t-1} held                              (2)

    so the gradient of a loss is known as soon as the loss is, through all past steps, in memory
    that does not grow. It is the textbook's recurrence for ∂h_t/∂W_h, run forward.

    What of S_t can differ from zero is read from the equations of the step, and only that is kept.
    A weight of an elementwise recurrence (`lru`, `min_gru`, `indrnn`) influences one unit alone.
    There S_t takes one array like the weights. In a dense cell every weight influences all N units.

    Args:
        step: a Step whose output is its loss, such as `jaxrnn.transforms.step_loss` returns. The
            rows of a batch must not read each other; they run as batches of one.
        memory_limit: the largest size of S_t, in bytes or as a text such as "1GiB", the default.

    Methods: `init` and `update`, see `jaxrnn.online.Learner`. Equal arguments construct equal
    learners.

    Raises:
        TypeError, ValueError: for an option out of range; while tracing, if S_t takes more than the
            memory limit, or the output of the step is no loss.

    Gradient: exact. With the params held, the sum over calls, each weighted by its number of
    losses, is that of backpropagation through time. Time for each step: O(B P) for an elementwise
    recurrence with P weights, as the step itself has, though S_t is read and written for each row;
    O(B N² P) for a dense one. Memory: O(B P), and O(B N P) for a dense one.

    Source: R. J. Williams, D. Zipser, "A learning algorithm for continually running fully recurrent
    neural networks", Neural Computation 1989; for elementwise recurrences, M. Mozer, "A focused
    backpropagation algorithm for temporal pattern recognition", Complex Systems 1989.

    Examples:
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> step = jaxrnn.transforms.step_loss(jaxrnn.gru(4), jaxrnn.linear(5), loss)
        >>> params = step.init(jax.random.key(0), input_size=3)
        >>> learner = jaxrnn.online.rtrl(step)
        >>> state = learner.init(params, step.initial_carry((2,)))
        >>> labels = jnp.zeros((6, 2), jnp.int32)
        >>> inputs = jaxrnn.transforms.StepLossInputs(jnp.ones((6, 2, 3)), labels)
        >>> grads, state, losses = learner.update(params, state, inputs)
        >>> losses.shape
        (6, 2)
    """

    def influence(self, row: RowStep, arguments: Arguments) -> SparseInfluence:
        """Returns all numbers of S that may differ from zero."""
        return _influence(self, row, arguments, order=None, across_layers=True)


@dataclasses.dataclass(frozen=True, repr=False)
class snap(SparseLearner):
    """Sparse n-step approximation of RTRL: keeps what a weight influences within `order` steps.

        S_t = pattern ⊙ (J_t S_{t-1} + D_t)                                                      (1)

    where the pattern contains the numbers of S_t that can differ from zero `order` steps after
    S = 0. With order 1, a weight of a dense cell keeps its influence on its own unit; the influence
    that goes through other units at later steps is dropped. Then S_t takes one array like the
    weights, two for an `lstm`, whose units are h and c.

    Args:
        step: a Step whose output is its loss.
        order: n, at least 1. In a dense cell, 2 steps reach all units, so `snap(step, 2)` is
            `rtrl(step)`.
        across_layers: whether the influence of a layer's weights on the units of *later* layers is
            kept. In a stack these are all units within one step, so False is the default: then a
            weight acts on later layers through the current step alone.
        memory_limit: the largest size of S_t, in bytes or as a text such as "1GiB", the default.

    Methods: `init` and `update`, see `jaxrnn.online.Learner`. Equal arguments construct equal
    learners.

    Raises:
        TypeError, ValueError: for an option out of range; while tracing, if S_t takes more than the
            memory limit, or the output of the step is no loss.

    Gradient: biased; exact for weights that influence no further unit, as in a layer of `lru`, and
    for weights that influence no carry, as those of a readout. Time for each step with order 1: the
    step, J_t and one product for each number of S_t. Memory: O(B P) with order 1.

    Source: J. Menick, E. Elsen, U. Evci, S. Osindero, K. Simonyan, A. Graves, "Practical real time
    recurrent learning with a sparse approximation to the Jacobian", ICLR 2021.
    """

    order: int = 1
    _: dataclasses.KW_ONLY
    across_layers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check.require_int("order", self.order, least=1)
        check.require_bool("across_layers", self.across_layers)

    def influence(self, row: RowStep, arguments: Arguments) -> SparseInfluence:
        """Returns the numbers of S in the pattern."""
        return _influence(self, row, arguments, order=self.order, across_layers=self.across_layers)


@dataclasses.dataclass(frozen=True, repr=False)
class eprop(SparseLearner):
    """E-prop: eligibility traces, which ignore the recurrent connections between units.

        ε_t     = J°_t ε_{t-1} + D_t                                                             (1)
        ∂L/∂w   = Σ_t (∂ℓ_t/∂c_t at c_{t-1} held) ε_t                                            (2)

    where J°_t is ∂c_t/∂c_{t-1} without the paths through an operation that mixes the units of a
    layer, such as h W_h. What remains is a unit's own memory: the forget gate of an `lstm`, the
    update gate of a `gru`, nothing for an `elman` cell. The learning signal of (2) is the exact
    gradient of the loss at the same step ("symmetric e-prop"). D_t has all paths from the weights.
    The influence of a layer's weights on later layers is kept within the step alone. Units that act
    on no later loss through J°, such as h of an `lstm`, have no trace.

    Args:
        step: a Step whose output is its loss.
        memory_limit: the largest size of ε_t, in bytes or as a text such as "1GiB", the default.

    Methods: `init` and `update`, see `jaxrnn.online.Learner`. Equal arguments construct equal
    learners.

    Raises:
        TypeError, ValueError: for an option out of range; while tracing, if ε_t takes more than the
            memory limit, or the output of the step is no loss.

    Gradient: biased; exact for an elementwise recurrence, such as a layer of `lru`. Time for each
    step: its gradient, two pullbacks, and one product for each number of ε_t. Memory: O(B P), up to
    O(B N P) if the step mixes the units of its next carry, as `layer_norm_lstm` does.

    Source: G. Bellec, F. Scherr, A. Subramoney, E. Hajek, D. Salaj, R. Legenstein, W. Maass, "A
    solution to the learning dilemma for recurrent networks of spiking neurons", Nature
    Communications 2020.
    """

    is_cut = True

    def influence(self, row: RowStep, arguments: Arguments) -> SparseInfluence:
        """Returns the numbers of S that follow a unit's own memory."""
        return _influence(self, row, arguments, order=None, across_layers=False)


def _influence(
    learner: SparseLearner,
    row: RowStep,
    arguments: Arguments,
    *,
    order: int | None,
    across_layers: bool,
) -> SparseInfluence:
    """Returns the numbers to keep; raises an error if they take more than the memory limit.

    Which ones they are is a table of N x N, so N is limited.
    """
    got = f"{row.num_units:,} numbers in a row of the carry"
    expected = f"at most {LONGEST_AXIS:,} for {name_of(learner)}; uoro takes more"
    check.require(row.num_units <= LONGEST_AXIS, "step", got, expected)
    kept = plan(row, arguments, order, across_layers=across_layers)
    itemsize = widest(row.dtype, *(w.dtype for w in arguments.w)).itemsize
    needed = kept.size(arguments.w) * row.num_rows * itemsize
    limit = int(learner.memory_limit)
    got = f"{needed:,} bytes for {name_of(learner)} and {row.num_rows} rows"
    expected = f"at most {limit:,}; raise the limit, or take snap, eprop or uoro"
    check.require(needed <= limit, "memory_limit", got, expected)
    return SparseInfluence(row, arguments.w, kept)
