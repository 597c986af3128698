"""Describes the device and the versions of all packages that affect a measurement."""

import importlib
import importlib.metadata
import os
import platform
import subprocess
import time
from typing import Any

import jax

PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "numpy", "optax", "flax"),
    *("equinox", "torch", "triton", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-nvcc"),
)


def machine() -> dict[str, Any]:
    """Returns the device, its driver, versions, flags, and the date."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "compute_capability": str(getattr(device, "compute_capability", "")),
        "nvidia-smi": _nvidia_smi(),
        "platform_version": str(getattr(device.client, "platform_version", ""))[:200],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "XLA_PYTHON_CLIENT_PREALLOCATE": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", ""),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def torch_settings() -> dict[str, Any]:
    """Returns the settings of PyTorch, or why there is none."""
    try:
        torch = importlib.import_module("torch")
        cudnn = torch.backends.cudnn
        has_cuda = torch.cuda.is_available()
        return {
            "device": torch.cuda.get_device_name() if has_cuda else "cpu",
            "cudnn": cudnn.version() if has_cuda else None,
            "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(),
        }
    except Exception as error:
        return {"missing": f"{type(error).__name__}: {error}"[:200]}


def _nvidia_smi() -> str:
    query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
