"""The recurrence of `bptt` with each of its two loops as one kernel.

loop     the Loop `fused`, and the scan that runs in a kernel
body     one iteration of a scan as equations, with the arrays that they read
tpu      the kernel for a TPU
gpu      the kernel for an NVIDIA GPU
gpu_plan, gpu_equations, gpu_values    what it needs, how it evaluates a step, and what threads hold
"""

from jaxrnn.loops.fused.loop import fused as fused
