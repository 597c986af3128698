"""What all tests share: shapes in signatures are checked, and numbers are float64 unless said."""

import importlib.util
import itertools
import os
import shutil
import tempfile
import warnings

import jaxtyping
import pytest

# All processes of a run share what they compile, which is most of what tests cost: a third of the
# time. The folder lives as long as the run, so that no run depends on an earlier one.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
if _CACHE not in os.environ:
    os.environ |= {
        _CACHE: tempfile.mkdtemp(prefix="jaxrnn-compiled-"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        # Until JAX 0.11 each load prints that two made-up features of the CPU are absent.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    _own_cache = os.environ[_CACHE]
else:
    _own_cache = None


def pytest_unconfigure():
    """Remove the compiled programs at the end of the run."""
    if _own_cache is not None:
        shutil.rmtree(_own_cache, ignore_errors=True)


# Before the first import of jaxrnn: where signatures have shapes, every annotation is checked at
# every call. The types elsewhere are mypy's; to check them too takes a quarter of a test's time.
_hook = jaxtyping.install_import_hook(
    [
        *("jaxrnn.cells", "jaxrnn.diagnostics", "jaxrnn.layers", "jaxrnn.losses"),
        *("jaxrnn.sequence", "jaxrnn.transforms", "jaxrnn.types"),
    ],
    "beartype.beartype",
)

import jax  # noqa: E402


@pytest.fixture(autouse=True)
def _strict():
    """float64, and nothing is promoted in silence: a user may have made that an error."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
    ):
        yield


@pytest.fixture(autouse=True)
def _quickly_compiled(request):
    """Compiling is most of what tests cost, so XLA optimises little, unless that is judged."""
    optimized = request.node.get_closest_marker("optimized") is not None
    jax.config.update("jax_disable_most_optimizations", not optimized)


@pytest.fixture
def v5e():
    """A chip of a TPU v5e that is not here, to compile for."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install '.[tpu]'")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to be asked
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor one to be shared by processes
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    with warnings.catch_warnings():
        # A program for a device that is not here cannot be loaded from the shared cache.
        warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
        yield jax.sharding.SingleDeviceSharding(topology.devices[0])


_collected = pytest.StashKey[set[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Note all tests before any is deselected."""
    config.stash[_collected] = {item.nodeid for item in items}


@pytest.fixture
def collected(request):
    """The names of all tests in the modules that are run."""
    config = request.config
    if config.getoption("lf") or any("::" in arg for arg in config.args):
        pytest.skip("modules are not collected as a whole")
    return config.stash[_collected]


_since_cleared = itertools.count(1)


def pytest_runtest_teardown():
    """Drop compiled programs now and then.

    Each takes memory mappings, of which Linux allows a process 65,530; past them XLA aborts.
    """
    if next(_since_cleared) % 100 == 0:
        jax.clear_caches()


@pytest.fixture
def own_messages(monkeypatch):
    """Switch off jaxtyping's run-time check, which would answer in the place of our messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
