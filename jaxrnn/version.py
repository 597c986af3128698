"""The version of jaxrnn, which a checkpoint names too."""

__version__ = "0.1.0"
