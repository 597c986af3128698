"""What mkdocstrings does not know of jaxrnn's docstrings: `Fields:` are a record's attributes."""

import griffe


class Fields(griffe.Extension):
    """Reads the section `Fields:` as Google's `Attributes:`."""

    def on_object(self, *, obj, **_):
        """Renames the section of one object."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = value.replace("\nFields:\n", "\nAttributes:\n")
