"""One command for any accelerator: `python -m benchmarks accelerator --minutes 8 --json FILE`."""
