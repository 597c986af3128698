"""What mkdocstrings does not know of jaxrnn: the names of sections, and names of modules.

`jaxrnn.gru` is a class from the module `jaxrnn.cells.gru`. The module has the path that the class
is imported by, `jaxrnn.cells.gru`, and griffe would show the module's docstring of one line.
"""

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path

import griffe

# The signatures below are those of this copy, whichever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


class Sections(griffe.Extension):
    """Names the sections: `Fields:` are Google's `Attributes:`, and `Args:` are not parameters.

    A parameter is a weight here, so "Parameters:" is the heading of no list of arguments.
    """

    def on_object(self, *, obj, **_):
        """Renames the sections of one object."""
        _rename_sections(obj)


class NamesOfModules(griffe.Extension):
    """Lets a public name mean the class or the function, not the module that is called as it is."""

    def on_package(self, *, pkg, **_):
        """Points the names of the package and of its namespaces to what they are at run time."""
        namespaces = [pkg, *(m for m in pkg.modules.values() if m.is_subpackage and not m.is_alias)]
        found = []
        for namespace in namespaces:
            for name, path in namespace.imports.items():
                target = self._target(pkg, path)
                if target:
                    found.append((namespace, name, target))
                if target and target.is_class:
                    _add_signature(target)
        # Only now: an alias in the place of a module hides what the module defines from _target.
        for namespace, name, target in found:
            namespace.set_member(name, griffe.Alias(name, target, parent=namespace))
            _rename_sections(target)  # griffe does not visit what stands behind an alias

    def _target(self, pkg, path):
        """Returns the object that an import of the package itself names, or None."""
        module_path, _, name = path.rpartition(".")
        if not module_path.startswith(f"{pkg.path}."):
            return None
        module = pkg[module_path.removeprefix(f"{pkg.path}.")]
        imported = module.imports.get(name, path)
        if imported != path:
            return self._target(pkg, imported)
        member = module.members.get(name)
        return None if member is None or member.is_module else member


def _rename_sections(obj):
    """Renames the sections in the docstring of one object of griffe's."""
    if obj.docstring:
        value = obj.docstring.value.replace("\nFields:\n", "\nAttributes:\n")
        obj.docstring.value = value.replace("\nArgs:\n", "\nArgs: Arguments:\n")
        obj.docstring.__dict__.pop("parsed", None)  # griffe has read that of a dataclass


def _add_signature(record):
    """Gives a class of griffe's the signature of a dataclass, fields of its base classes too."""
    actual = getattr(importlib.import_module(record.module.path), record.name)
    if not dataclasses.is_dataclass(actual):
        return
    parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
    for parameter in inspect.signature(actual).parameters.values():
        default = None
        if parameter.default is not parameter.empty:
            default = getattr(parameter.default, "__name__", repr(parameter.default))
        kind = griffe.ParameterKind(parameter.kind.description)
        parameters.append(griffe.Parameter(parameter.name, kind=kind, default=default))
    record.set_member(
        "__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters))
    )
