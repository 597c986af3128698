"""The recurrence of `bptt` with each of its two loops as one kernel.

loop      the Loop `fused`, and the scan that runs in a kernel
body      one iteration of a scan as equations, with the arrays that they read
kernel    what the kernels for all devices have in common
tpu       the kernel for a TPU
gpu       the kernel for an NVIDIA GPU, with three files of its own:
gpu_values       what the threads hold of a value
gpu_equations    how they evaluate a step
gpu_plan         what they need on chip
"""

from jaxrnn.loops.fused.loop import fused as fused
