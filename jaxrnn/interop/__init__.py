"""Parameters in and out of other libraries, one a module, each with `read` and `write`.

`safetensors`, which needs the package of that name, is imported by itself.
"""

from jaxrnn.interop import equinox as equinox, flax as flax, haiku as haiku, keras as keras
from jaxrnn.interop import onnx as onnx, torch as torch
