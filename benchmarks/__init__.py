"""Measurements of jaxrnn, one question a file: `python -m benchmarks`."""
