"""Tables of where other libraries keep each gate of our parameters, and conversions by them.

All tables are in layouts.toml. A table is a linear map S from our parameters to the tensors of
another library, written as text. A row of a table names one tensor and the blocks of our parameters
that the tensor holds. In `w_x.zrn`, the columns of the gates z, r, n of our `w_x` stand side by
side; in `b.zr b_n`, two gates of `b` stand before the whole of `b_n`. `/` begins a new line of
blocks below the first, as in `w_x.ifgo / w_h.ifgo`. `-` before a gate changes its sign. With θ our
parameters and τ their tensors,

    θ = Sᵀ τ + o                                                                             (I1)
    τ = S₁ (θ - o)                                                                           (I2)
    ∂L/∂τ = S ∂L/∂θ                                                                          (I3)

where o is a constant that the other library adds, such as Haiku's 1 at the forget gate. A table may
list a block of ours twice, for instance for two biases that are added. Then reading sums both
tensors, and each of them gets the whole gradient. Writing puts the block into the first tensor and
zeros into the other, which is S₁. A table may also list a tensor twice. Such a tensor stands for
two blocks of ours, and only equal blocks can be written.
"""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check, tree
from jaxrnn.cells import elman, kernels
from jaxrnn.interop.expressions import (
    ACTIVATIONS,
    CALLABLES,
    abstract_params,
    input_size_of,
)
from jaxrnn.types import Array, Cell, Params, Part, PyTree

Tensors = Mapping[str, jax.Array]  # the tensors of another library, by name
# What tensors have to be, by name; None for a matrix of unknown shape.
Expected = Mapping[str, jax.Array | jax.ShapeDtypeStruct | None]
Mismatch = tuple[str, str, str]  # a tensor's name, what came, what was expected


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where another library keeps the parameters of one cell.

    Fields:
        name: the names of the library and its class.
        cell: our factory.
        rows: pairs of a tensor's name and the blocks that it holds; the tensor with `w_x` is first.
        gates: one letter for each gate, in our order; empty for a cell without gates.
        options: arguments of the factory besides the hidden size.
        sizes: other arguments of the factory, each with the name of the matrix whose height it is.
        transposed: whether their matrices are the transposes of ours.
        offsets: o of (I1), one number for each gate of `b`; empty if all are 0.
        bias_free: whether all biases may be missing, in which case they are zero.
    """

    name: str
    cell: Callable[..., Cell]
    rows: Sequence[Sequence[str]]
    gates: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    transposed: bool = False
    offsets: Sequence[float] = ()
    bias_free: bool = False

    def to_tensors(self, params: Params, *, repeat: bool = True) -> dict[str, jax.Array]:
        """Returns S θ of (I3), or S₁ θ of (I2), the tensors that hold our parameters.

        Args:
            params: θ.
            repeat: whether a block that is listed twice is written twice, which is S, or only
                once, which is S₁.
        """
        written: set[str] = set()

        @functools.cache
        def gates_of(name: str) -> Sequence[Array]:
            return kernels.split_gates(params[name], len(self.gates))

        def block(key: str) -> Array:
            name, _, gate = key.partition(".")
            x = params[name]
            if gate:
                letter = gate.removeprefix("-")
                x = gates_of(name)[self.gates.index(letter)]
            if not repeat and key in written:
                return jnp.zeros_like(x)
            written.add(key)
            if gate.startswith("-"):
                return -x
            return x

        tensors: dict[str, jax.Array] = {}
        for name, text in self.rows:
            lines = []
            for keys in _parse_row(text):
                blocks = [block(key) for key in keys]
                lines.append(jnp.concatenate(blocks, axis=-1))
            tensor = lines[0]
            if len(lines) > 1:  # a vector, such as a bias, is one line of a matrix
                tensor = jnp.concatenate([*map(jnp.atleast_2d, lines)])
            if self.transposed:
                tensor = tensor.T
            if name not in tensors:
                tensors[name] = tensor
            elif repeat:  # the transpose of reading, where both blocks get the same tensor
                tensors[name] += tensor
        return tensors

    def add_offsets(self, params: Params) -> Params:
        """Returns θ + o."""
        return self._shift_bias(params, 1)

    def subtract_offsets(self, params: Params) -> Params:
        """Returns θ - o."""
        return self._shift_bias(params, -1)

    def _shift_bias(self, params: Params, sign: int) -> Params:
        if not self.offsets:
            return params
        offsets = jnp.asarray(self.offsets, params["b"].dtype)
        offsets = jnp.repeat(offsets, len(params["b"]) // len(self.gates))
        return {**params, "b": params["b"] + sign * offsets}

    def infer_cell(self, tensors: Tensors) -> tuple[Cell, Params]:
        """Returns the cell and the shapes of its parameters, from the shape of the input kernel."""
        name, text = self.rows[0]
        lines = _parse_row(text)
        shape = tensors[name].shape
        if self.transposed:
            width, height = shape
        else:
            height, width = shape
        hidden_size = max(1, width // len(lines[0]))
        # The lines after the first hold recurrent kernels, each as high as the hidden size.
        input_size = max(1, height - (len(lines) - 1) * hidden_size)
        sizes = {option: len(tensors[name]) for option, name in self.sizes.items()}
        cell = self.cell(hidden_size, **self.options, **sizes)
        return cell, abstract_params(cell, input_size, tensors[name].dtype)

    def find_mismatches(self, tensors: Tensors) -> list[Mismatch]:
        """Returns all differences between the tensors and those of the table."""
        expected: Expected = dict.fromkeys(name for name, _ in self.rows)
        matrices = {self.rows[0][0], *self.sizes.values()}
        if all(name in tensors and tensors[name].ndim == 2 for name in matrices):
            _, shapes = self.infer_cell(tensors)
            expected = jax.eval_shape(self.to_tensors, shapes)
        biases = {name for name, text in self.rows if text.startswith("b")}
        if self.bias_free and not biases & tensors.keys():
            expected = {name: x for name, x in expected.items() if name not in biases}
        return find_mismatches(tensors, expected, self.name)


def load_layouts(library: str, name: str = "") -> list[Layout]:
    """Reads the tables of a library's classes; `name` replaces `{}` in the names of tensors."""
    text = resources.files(__package__).joinpath("layouts.toml").read_text("utf-8")
    shared = tomllib.loads(text.replace("{}", name))[library]
    layouts = []
    for entry in shared.pop("classes"):
        options = entry.get("options", {})
        fields = {
            **shared,
            **entry,
            "name": f"{library}.{entry['name']}",
            "cell": CALLABLES[entry["cell"]],
            "rows": [row.split(" = ") for row in entry["rows"]],
            "options": {key: ACTIVATIONS.get(value, value) for key, value in options.items()},
        }
        layouts.append(Layout(**fields))
    return layouts


def find_mismatches(tensors: Tensors, expected: Expected, owner: str) -> list[Mismatch]:
    """Returns all differences between tensors and the expected shapes and dtypes.

    A value of None in `expected` stands for a matrix of unknown shape.
    """

    def description(tensors: Expected, name: str) -> str:
        if name not in tensors:
            return "none"
        if tensors[name] is None:
            return "a matrix"
        return check.describe(tensors[name])

    mismatches = []
    for name in {**expected, **tensors}:
        got = description(tensors, name)
        wanted = description(expected, name)
        if got != wanted:
            mismatches.append((name, got, f"{wanted} for {owner}"))
    return mismatches


def select_by_tensors(layouts: Sequence[Layout], tensors: Tensors) -> Layout:
    """Returns the layout that tensors have; otherwise ValueError, by the layout that fits best."""
    mismatches = [layout.find_mismatches(tensors) for layout in layouts]
    best = min(range(len(layouts)), key=lambda index: len(mismatches[index]))
    for mismatch in mismatches[best]:
        check.require(False, *mismatch)
    return layouts[best]


def select_by_module(
    layouts: Sequence[Layout], module: Any, supported: Mapping[str, Any]
) -> list[Layout]:
    """Returns the layouts of a module's class; ValueError if we have no such cell.

    Args:
        layouts: the layouts of the library.
        module: a module of the library.
        supported: by attribute of the module, the value that all our cells implement. The
            activation of an Elman cell may have other values too.
    """
    class_name = type(module).__name__.removesuffix("Cell")
    selected = [x for x in layouts if x.name.partition(".")[2].removesuffix("Cell") == class_name]
    check.require(selected, "module", type(module).__name__, f"one of {_names(layouts)}")
    for attribute, expected in supported.items():
        value = getattr(module, attribute, expected)
        value = getattr(value, "__name__", value)
        if selected[0].cell is elman and attribute.startswith("activation"):
            selected = with_activation(selected, attribute, value)
        else:
            owner = selected[0].name
            check.require(value == expected, attribute, repr(value), f"{expected!r} for {owner}")
    return selected


def with_activation(layouts: Sequence[Layout], attribute: str, function: str) -> list[Layout]:
    """Returns layouts of an Elman cell with the activation that an attribute of a module names."""
    expected = f"one of {[*ACTIVATIONS]} for {layouts[0].name}"
    check.require(function in ACTIVATIONS, attribute, repr(function), expected)
    options = {"activation": ACTIVATIONS[function]}
    return [dataclasses.replace(layout, options=options) for layout in layouts]


def select_by_cell(layouts: Sequence[Layout], cell: Part) -> list[Layout]:
    """Returns the layouts of a cell of ours; ValueError if there is none."""
    expected = f"a cell such as {_names(layouts)}"
    check.require(isinstance(cell, Part), "cell", check.describe(cell), expected)

    def fits(layout: Layout) -> bool:
        options = layout.options.items()
        return layout.cell is type(cell) and all(getattr(cell, key) == x for key, x in options)

    selected = [layout for layout in layouts if fits(layout)]
    check.require(selected, "cell", repr(cell), expected)
    return selected


def tensors_of(source: PyTree) -> Tensors:
    """Returns the arrays of any tree, also PyTorch's tensors, by path.

    Raises a TypeError for a dtype that JAX does not have. A path ends where the value of a Flax
    variable begins.
    """

    def array(name: str, leaf: Any) -> jax.Array:
        name = name or "source"
        dtype_name = str(getattr(leaf, "dtype", type(leaf))).removeprefix("torch.")
        dtype = check.require_floating(name, dtype_name)
        is_enabled = jax.dtypes.canonicalize_dtype(dtype) == dtype
        expected = "float32 at most, or jax_enable_x64 switched on"
        check.require(is_enabled, name, leaf, expected, TypeError)
        if hasattr(leaf, "detach"):
            # PyTorch's bfloat16 goes through float64, since NumPy does not know it.
            leaf = leaf.detach().cpu().double()
        return jnp.asarray(leaf, dtype)

    leaves = {name.removesuffix(".value"): x for name, x in tree.leaves_by_name(source).items()}
    return {name: array(name, x) for name, x in leaves.items()}


def read(layouts: Sequence[Layout], source: PyTree) -> tuple[Cell, Params]:
    """Returns the cell and its parameters (I1), by the layout of the arrays in any tree."""
    tensors = tensors_of(source)
    layout = select_by_tensors(layouts, tensors)
    cell, shapes = layout.infer_cell(tensors)
    expected = jax.eval_shape(layout.to_tensors, shapes)
    # Missing biases are zeros.
    tensors = {name: tensors.get(name, jnp.zeros(x.shape, x.dtype)) for name, x in expected.items()}
    # Sᵀ τ of (I1): `to_tensors` is S, a linear map, so JAX can transpose it.
    (params,) = jax.linear_transpose(layout.to_tensors, shapes)(tensors)
    return cell, layout.add_offsets(params)


def write(layouts: Sequence[Layout], cell: Part, params: Params, like: PyTree = None) -> PyTree:
    """Returns the tensors (I2) in a tree like `like`, by the layout that fits it and the cell.

    Without `like`, returns the tensors by name, by the first layout of the cell.
    """
    candidates = select_by_cell(layouts, cell)
    input_size_of(cell, params)  # raises if the parameters are not those of the cell
    template = None
    layout = candidates[0]
    if like is not None:
        template = tensors_of(like)
        layout = select_by_tensors(candidates, template)
    tensors = layout.to_tensors(layout.subtract_offsets(params), repeat=False)
    if template is not None:
        tensors = {name: tensors[name] for name in template}
        check.require_same_tree("like", template, tensors, ", by params")
    # A table that stands for two blocks by one tensor cannot hold all values.
    _, read_back = read([layout], tensors)
    for name, param in params.items():
        tolerance = 4 * jnp.finfo(param.dtype).eps
        is_same = np.allclose(
            param, read_back[name], rtol=tolerance, atol=tolerance, equal_nan=True
        )
        check.require(is_same, f"params[{name!r}]", param, f"values that {layout.name} can hold")
    if like is None:
        return tensors
    return _replace_leaves(like, tensors.values())


def _names(layouts: Sequence[Layout]) -> str:
    return ", ".join(dict.fromkeys(layout.name for layout in layouts))


def _replace_leaves(like: PyTree, tensors: Iterable[jax.Array]) -> PyTree:
    """Returns the tree with other values, in its order, each with the array type of the leaf."""

    def convert(leaf: Any, x: jax.Array) -> Any:
        if not hasattr(leaf, "new_tensor"):
            return x
        # PyTorch's bfloat16 goes through float64, since NumPy does not know it.
        return leaf.new_tensor(np.asarray(x, float))

    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, map(convert, leaves, tensors))


def _parse_row(text: str) -> list[list[str]]:
    """Returns the blocks of a row, line by line."""
    lines = []
    for line in text.split(" / "):
        blocks: list[str] = []
        for word in line.split():
            blocks.extend(_parse_word(word))
        lines.append(blocks)
    return lines


def _parse_word(word: str) -> list[str]:
    """Returns `["w_x.z", "w_x.r"]` for `w_x.zr`, and `["b_n"]` for `b_n`."""
    array, _, gates = word.partition(".")
    return [f"{array}.{gate}" for gate in re.findall(r"-?\w", gates)] or [array]
