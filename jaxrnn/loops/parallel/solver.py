"""The recurrences of a Cell, c_t forward and λ_t backward, each solved for all steps at once."""

import dataclasses

import jax

from jaxrnn import check, tree
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.parallel.devices import last_state, previous_states, sum_over_devices
from jaxrnn.loops.parallel.plain_step import PlainStep
from jaxrnn.loops.parallel.solve import Effort, Options, is_solved_at_once, solve
from jaxrnn.loops.parallel.structure import Leaves, Recurrence, components
from jaxrnn.loops.recomputing import Solver
from jaxrnn.types import Array, Carry, Cell, PyTree, Residuals, Weights


@dataclasses.dataclass(frozen=True)
class InParallel(Solver):
    """Solves the recurrences of a Cell for all steps at once; see `recomputing.Solver`."""

    name: str
    options: Options

    def previous_carries(self, carry: Carry, carries: Carry) -> Carry:
        """Returns c_0..c_{T-1}."""
        return self._before(carry, carries, reverse=False)

    def carries(self, cell: Cell, w: Weights, carry: Carry, zs: PyTree) -> tuple[Carry, Carry]:
        """Returns c_T and c_1..c_T."""
        carries, _ = self.carries_and_efforts(cell, w, carry, zs)
        last = self._last(carries, reverse=False)
        return jax.tree.map(lambda c: sum_over_devices(c, self.options.axis), last), carries

    def carries_and_efforts(
        self, cell: Cell, w: Weights, carry: Carry, zs: PyTree
    ) -> tuple[Carry, list[Effort]]:
        """Returns c_1..c_T, and the effort for each component that is not linear."""
        leaves, structure = jax.tree.flatten(carry)
        recurrence = _recurrence(cell, w, carry, zs)
        found, efforts = solve(self.name, recurrence, leaves, zs, self.options, is_adjoint=False)
        return jax.tree.unflatten(structure, found), efforts

    def has_jax_gradient(self, cell: Cell, w: Weights, carry: Carry, zs: PyTree) -> bool:
        """Returns whether nothing takes iterations, which JAX cannot differentiate in reverse."""
        recurrence = _recurrence(cell, w, carry, zs)
        found = components(recurrence, jax.tree.leaves(carry), check.one_step(zs))
        return all(is_solved_at_once(part, self.options) for part in found if part.is_recurrent)

    def cotangents(
        self, cell: Cell, w: Weights, residuals: Residuals, d_last: Carry, d_carries: Carry
    ) -> tuple[Carry, Carry]:
        """Returns λ_0 and λ_1..λ_T.

        They follow from the recurrence u_{t-1} = adjoint(w, r_t, u_t + ∂ℓ_t/∂c_t), whose last
        argument is λ_t. A custom derivative rule need not be linear in λ.
        """
        leaves, structure = jax.tree.flatten(d_last)

        def recurrence(leaves: Leaves, inputs: tuple[Residuals, Carry]) -> Leaves:
            residuals_t, d_carry_t = inputs
            d_carry = tree.add_sparse(jax.tree.unflatten(structure, leaves), d_carry_t)
            return jax.tree.leaves(cell.adjoint(w, residuals_t, d_carry)[0])

        inputs = residuals, d_carries
        name = f"the adjoint of {self.name}"
        found, _ = solve(
            name,
            jaxprs.primal(recurrence, leaves, check.one_step(inputs)),
            leaves,
            inputs,
            self.options,
            is_adjoint=True,
            is_linear=isinstance(cell, PlainStep) and not cell.has_custom_vjp,
        )
        us = jax.tree.unflatten(structure, found)
        lambdas = tree.add_sparse(self._before(d_last, us, reverse=True), d_carries)
        # λ_0 is zero on all devices but one, since JAX sums the cotangent of the carry, which all
        # devices have, over the devices.
        return self._last(us, reverse=True), lambdas

    def _before(self, start: Carry, states: Carry, *, reverse: bool) -> Carry:
        """Returns the states before each step, from the start and the states after each step."""

        def before(start: Array, states: Array) -> jax.Array:
            return previous_states(start, states, reverse, self.options.axis)

        return jax.tree.map(before, start, states)

    def _last(self, states: Carry, *, reverse: bool) -> Carry:
        """Returns the state after the last step."""
        return jax.tree.map(lambda x: last_state(x, reverse, self.options.axis), states)


def _recurrence(cell: Cell, w: Weights, carry: Carry, zs: PyTree) -> Recurrence:
    """Returns `advance` as a function of the leaves of the carry.

    It has no custom derivative rules, since these are for the gradient and not for the states.
    """
    leaves, structure = jax.tree.flatten(carry)

    def recurrence(leaves: Leaves, z_t: PyTree) -> Leaves:
        return jax.tree.leaves(cell.advance(w, jax.tree.unflatten(structure, leaves), z_t)[0])

    return jaxprs.primal(recurrence, leaves, check.one_step(zs))
