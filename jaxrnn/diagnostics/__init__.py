"""Diagnostics: where the gradient goes, how far back it reaches, what a network computes."""

from jaxrnn.diagnostics import plots as plots
from jaxrnn.diagnostics.diagnosis import Diagnosis as Diagnosis, diagnose as diagnose
from jaxrnn.diagnostics.dynamics import FixedPoints as FixedPoints, fixed_points as fixed_points
from jaxrnn.diagnostics.flow import GradientFlow as GradientFlow, gradient_flow as gradient_flow
from jaxrnn.diagnostics.flow import per_step_gradients as per_step_gradients
from jaxrnn.diagnostics.flow import saturation as saturation
from jaxrnn.diagnostics.influence import ParameterInfluence as ParameterInfluence
from jaxrnn.diagnostics.influence import parameter_influence as parameter_influence
from jaxrnn.diagnostics.newton import NewtonEffort as NewtonEffort
from jaxrnn.diagnostics.newton import newton_effort as newton_effort
from jaxrnn.diagnostics.nonfinite import Nonfinite as Nonfinite
from jaxrnn.diagnostics.nonfinite import locate_nonfinite as locate_nonfinite
from jaxrnn.diagnostics.online_errors import OnlineError as OnlineError
from jaxrnn.diagnostics.online_errors import online_errors as online_errors
from jaxrnn.diagnostics.spectrum import JacobianSpectrum as JacobianSpectrum
from jaxrnn.diagnostics.spectrum import MemoryHorizon as MemoryHorizon
from jaxrnn.diagnostics.spectrum import jacobian_spectrum as jacobian_spectrum
from jaxrnn.diagnostics.spectrum import memory_horizon as memory_horizon
from jaxrnn.diagnostics.truncation import AdaptiveTruncation as AdaptiveTruncation
from jaxrnn.diagnostics.truncation import TruncationBias as TruncationBias
from jaxrnn.diagnostics.truncation import adaptive_truncation as adaptive_truncation
from jaxrnn.diagnostics.truncation import truncation_bias as truncation_bias
from jaxrnn.memory import MemoryPlan as MemoryPlan, MemoryRow as MemoryRow
from jaxrnn.memory import memory_plan as memory_plan
