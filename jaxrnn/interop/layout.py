"""What a conversion is: a table of where another library keeps each gate of our parameters.

All tables are in layouts.toml. A table is a linear map S from our parameters to their tensors,
written as text. A row names one of their tensors and what lies in it: `w_x.zrn` are the columns of
the gates z, r, n of our `w_x` side by side, `b.zr b_n` two gates of `b` and then all of `b_n`; `/`
begins a new line below, as in `w_x.ifgo / w_h.ifgo`; `-` before a gate turns its sign. With θ ours
and τ theirs,

    θ = Sᵀ τ + o                                                                             (I1)
    τ = S₁ (θ - o)                                                                           (I2)
    ∂L/∂τ = S ∂L/∂θ                                                                          (I3)

where o is what the other library adds by itself, Haiku's 1 at the forget gate. Where a table names
a block of ours twice, as of two biases that are added, reading sums them and each has the whole
gradient; writing puts all of it into the first and zeros into the others, which is S₁. Where it
names a tensor of theirs twice, that stands for two blocks of ours, and only equal ones are written.
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
    expression_of,
    input_size_of,
)
from jaxrnn.types import Array, Cell, Params, Part, PyTree

Tensors = Mapping[str, jax.Array]  # those of another library, by their names
Misfit = tuple[str, str, str]  # a tensor's name, what came, what was expected


@dataclasses.dataclass(frozen=True)
class Layout:
    """How another library keeps the parameters of one cell.

    Fields:
        name: of library and class.
        cell: our factory.
        rows: of each tensor its name and what lies in it; `w_x` comes first.
        gates: a letter for each, in our order; none where there is but one.
        options: of the factory, beside the hidden size.
        sizes: other options of it, each the height of one of their matrices.
        turned: whether their matrices are the transposes of ours.
        offsets: o of (I1), a number for each gate of `b`; none where all are 0.
        bias_free: whether all biases may be left out, and are zero then.
    """

    name: str
    cell: Callable[..., Cell]
    rows: Sequence[Sequence[str]]
    gates: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    turned: bool = False
    offsets: Sequence[float] = ()
    bias_free: bool = False

    def spread(self, params: Params, once: bool = False) -> dict[str, jax.Array]:
        """S of (I3): their tensors, of what ours are; or S₁ of (I2), that says nothing twice."""
        gates = functools.cache(lambda name: kernels.split_gates(params[name], len(self.gates)))
        said, tensors = [], {}

        def block(key: str) -> Array:
            name, _, gate = key.partition(".")
            x = gates(name)[self.gates.index(gate[-1])] if gate else params[name]
            said.append(key)
            return jnp.zeros_like(x) if once and key in said[:-1] else -x if "-" in gate else x

        for name, text in self.rows:
            lines = [jnp.concatenate([*map(block, keys)], -1) for keys in _keys(text)]
            tensor = lines[0] if len(lines) == 1 else jnp.concatenate([*map(jnp.atleast_2d, lines)])
            tensor = tensor.T if self.turned else tensor
            if name not in tensors:
                tensors[name] = tensor
            elif not once:
                tensors[name] += tensor
        return tensors

    def shifted(self, params: Params, sign: int) -> Params:
        """θ + o, or with the other sign θ - o."""
        if not self.offsets:
            return params
        offsets = jnp.asarray(self.offsets, params["b"].dtype)
        each = jnp.repeat(offsets, len(params["b"]) // len(self.gates))
        return {**params, "b": params["b"] + sign * each}

    def ours(self, tensors: Tensors) -> tuple[Cell, Params]:
        """The cell, and the form of its parameters, both told from the input kernel."""
        name, text = self.rows[0]
        columns, lines_below = len(_keys(text)[0]), len(_keys(text)) - 1
        height, width = tensors[name].shape[:: -1 if self.turned else 1]
        hidden_size = max(1, width // columns)
        input_size = max(1, height - lines_below * hidden_size)
        sizes = {option: len(tensors[name]) for option, name in self.sizes.items()}
        cell = self.cell(hidden_size, **self.options, **sizes)
        return cell, abstract_params(cell, input_size, tensors[name].dtype)

    def misfits(self, tensors: Tensors) -> list[Misfit]:
        """Where tensors are not those of the table."""
        wanted: dict[str, Any] = dict.fromkeys(name for name, _ in self.rows)
        matrices = {self.rows[0][0], *self.sizes.values()}
        if all(name in tensors and tensors[name].ndim == 2 for name in matrices):
            wanted = jax.eval_shape(self.spread, self.ours(tensors)[1])
        biases = {name for name, text in self.rows if text.startswith("b")}
        if self.bias_free and not biases & tensors.keys():
            wanted = {name: struct for name, struct in wanted.items() if name not in biases}
        return misfits(tensors, wanted, self.name)


def layouts(library: str, name: str = "") -> list[Layout]:
    """Those of a library's classes, with a name in the place of `{}`."""
    text = resources.files(__package__).joinpath("layouts.toml").read_text("utf-8")
    shared = tomllib.loads(text.replace("{}", name))[library]
    found = []
    for said in shared.pop("classes"):
        said["name"], said["cell"] = f"{library}.{said['name']}", CALLABLES[said["cell"]]
        said["rows"] = [row.split(" = ") for row in said["rows"]]
        options = said.get("options", {}).items()
        said["options"] = {option: ACTIVATIONS.get(value, value) for option, value in options}
        found.append(Layout(**shared, **said))
    return found


def misfits(tensors: Tensors, wanted: Mapping[str, Any], owner: str) -> list[Misfit]:
    """Where tensors are not what is wanted, whose form may be None while it is not known."""

    def said(of: Mapping[str, Any], name: str) -> str:
        known = of.get(name) is not None
        return check.describe(of[name]) if known else "a matrix" if name in of else "none"

    return [
        (name, got, f"{expected} for {owner}")
        for name in {**wanted, **tensors}
        if (got := said(tensors, name)) != (expected := said(wanted, name))
    ]


def fitting(layouts: Sequence[Layout], tensors: Tensors) -> Layout:
    """The layout that tensors have; ValueError, by the one that fits best, if they have none."""
    found = [(layout, layout.misfits(tensors)) for layout in layouts]
    best, misfits_of_best = min(found, key=lambda pair: len(pair[1]))
    for misfit in misfits_of_best:
        check.require(False, *misfit)
    return best


def of_module(layouts: Sequence[Layout], module: Any, plain: Mapping[str, Any]) -> list[Layout]:
    """The layouts of a module's class.

    What a module says of itself must be plain, such as our cells are, but for the activation of an
    Elman cell.
    """
    kind = type(module).__name__.removesuffix("Cell")
    found = [x for x in layouts if x.name.partition(".")[2].removesuffix("Cell") == kind]
    check.require(found, "module", type(module).__name__, f"one of {_names(layouts)}")
    for attribute, wanted in plain.items():
        value = getattr(module, attribute, wanted)
        value = getattr(value, "__name__", value)
        if found[0].cell is elman and attribute.startswith("activation"):
            found = activated(found, attribute, value)
        else:
            expected = f"{wanted!r} for {found[0].name}"
            check.require(value == wanted, attribute, repr(value), expected)
    return found


def activated(layouts: Sequence[Layout], attribute: str, function: str) -> list[Layout]:
    """Layouts of an Elman cell with the activation that an attribute names."""
    known = function in ACTIVATIONS
    check.require(
        known, attribute, repr(function), f"one of {[*ACTIVATIONS]} for {layouts[0].name}"
    )
    options = {"activation": ACTIVATIONS[function]}
    return [dataclasses.replace(layout, options=options) for layout in layouts]


def tensors_of(source: PyTree) -> Tensors:
    """The arrays of any tree, PyTorch's too, by their paths; errors of ours where JAX has no such.

    A path ends where the value of a Flax variable begins.
    """

    def array(name: str, leaf: Any) -> jax.Array:
        name = name or "source"
        dtype = check.require_floating(
            name, str(getattr(leaf, "dtype", type(leaf))).removeprefix("torch.")
        )
        known = jax.dtypes.canonicalize_dtype(dtype) == dtype
        check.require(
            known, name, leaf, "float32 at most, or jax_enable_x64 switched on", TypeError
        )
        # NumPy does not know PyTorch's bfloat16.
        return jnp.asarray(leaf.detach().cpu().double() if hasattr(leaf, "detach") else leaf, dtype)

    named = {name.removesuffix(".value"): x for name, x in tree.leaves_by_name(source).items()}
    return {name: array(name, x) for name, x in named.items()}


def read(layouts: Sequence[Layout], source: PyTree) -> tuple[Cell, Params]:
    """The cell and its parameters (I1), by the layout that the arrays of any tree have."""
    tensors = tensors_of(source)
    layout = fitting(layouts, tensors)
    cell, form = layout.ours(tensors)
    wanted = jax.eval_shape(layout.spread, form)
    given = {name: tensors.get(name, jnp.zeros(x.shape, x.dtype)) for name, x in wanted.items()}
    (params,) = jax.linear_transpose(layout.spread, form)(given)
    return cell, layout.shifted(params, 1)


def holding(layouts: Sequence[Layout], cell: Cell) -> list[Layout]:
    """Those that have a cell; ValueError if there is none."""
    expected = f"a cell such as {_names(layouts)}"
    check.require(isinstance(cell, Part), "cell", check.describe(cell), expected)
    of_class = [x for x in layouts if x.cell is type(cell)]
    found = [x for x in of_class if all(getattr(cell, name) == v for name, v in x.options.items())]
    check.require(found, "cell", expression_of(cell), expected)
    return found


def write(layouts: Sequence[Layout], cell: Cell, params: Params, like: PyTree = None) -> PyTree:
    """Their tensors (I2) in the tree `like`, by the layout that both it and the cell have.

    Without `like` they come by their names, in the first layout that has the cell.
    """
    found = holding(layouts, cell)
    input_size_of(cell, params)
    wanted = None if like is None else tensors_of(like)
    layout = found[0] if wanted is None else fitting(found, wanted)
    tensors = layout.spread(layout.shifted(params, -1), once=True)
    if wanted is not None:
        tensors = {name: tensors[name] for name in wanted}
        check.require_same_tree("like", wanted, tensors, ", by params")
    _, back = read([layout], tensors)
    for name, param in params.items():
        error = 4 * jnp.finfo(param.dtype).eps
        same = np.allclose(param, back[name], rtol=error, atol=error, equal_nan=True)
        check.require(same, f"params[{name!r}]", param, f"values that {layout.name} can hold")
    return tensors if like is None else _filled(like, tensors.values())


def _names(layouts: Sequence[Layout]) -> str:
    return ", ".join(dict.fromkeys(layout.name for layout in layouts))


def _filled(like: PyTree, tensors: Iterable[jax.Array]) -> PyTree:
    """The tree with other values, in its order, each of the kind of array that it has there."""

    def kind(leaf: Any, x: jax.Array) -> Any:
        # Through float64, since NumPy does not know PyTorch's bfloat16.
        return leaf.new_tensor(np.asarray(x, float)) if hasattr(leaf, "new_tensor") else x

    leaves, form = jax.tree.flatten(like)
    return jax.tree.unflatten(form, map(kind, leaves, tensors))


def _keys(text: str) -> list[list[str]]:
    """The blocks that a row names, line by line."""
    return [[key for run in line.split() for key in _of_run(run)] for line in text.split(" / ")]


def _of_run(run: str) -> list[str]:
    """`w_x.z` and `w_x.r` of `w_x.zr`; of `b_n` itself."""
    array, _, gates = run.partition(".")
    return [f"{array}.{gate}" for gate in re.findall(r"-?\w", gates)] or [array]
