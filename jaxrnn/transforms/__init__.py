"""Transformations of a step, one subject in each file; each returns a step for every loop.

A transformation of a Cell changes `advance`, and also `adjoint` and `gradients`, since a
hand-written backward pass does not follow a change of the forward pass.
"""

from jaxrnn.transforms.adjoint import ProbeInputs as ProbeInputs, clip_adjoint as clip_adjoint
from jaxrnn.transforms.adjoint import probe_adjoint as probe_adjoint, scale_adjoint as scale_adjoint
from jaxrnn.transforms.autoregressive import Generated as Generated
from jaxrnn.transforms.autoregressive import autoregressive as autoregressive
from jaxrnn.transforms.carry_gradient import ScaledInputs as ScaledInputs
from jaxrnn.transforms.carry_gradient import scale_carry_gradient as scale_carry_gradient
from jaxrnn.transforms.h_detach import detach_adjoint as detach_adjoint
from jaxrnn.transforms.dropout import recurrent_dropout as recurrent_dropout
from jaxrnn.transforms.dropout import variational_dropout as variational_dropout
from jaxrnn.transforms.masking import MaskedInputs as MaskedInputs, masked as masked
from jaxrnn.transforms.resets import ResetInputs as ResetInputs, ResetParams as ResetParams
from jaxrnn.transforms.resets import resettable as resettable
from jaxrnn.transforms.step_loss import StepLossInputs as StepLossInputs, step_loss as step_loss
from jaxrnn.transforms.zoneout import zoneout as zoneout
