"""Exchange of parameters with other libraries: a module for each, with `read` and `write`.

`jaxrnn.interop.safetensors` needs the package of that name, so it has to be imported explicitly.
"""

from jaxrnn.interop import equinox as equinox, flax as flax, haiku as haiku, keras as keras
from jaxrnn.interop import onnx as onnx, stablehlo as stablehlo, torch as torch
