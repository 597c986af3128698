"""The recurrence of `bptt` with each of its two loops as one kernel.

loop     the Loop `fused`, and the scan that runs in a kernel
body     one iteration of a scan as equations, with the arrays that they read
tpu      the kernel for a TPU
"""

from jaxrnn.loops.fused.loop import fused as fused
