"""The strict environment of all tests: two virtual CPU devices, no silent broadcasting, warnings are errors (pyproject)."""

import gc
import importlib.metadata
import os

# With several virtual devices on few cores, steps in flight can starve each other of threads until XLA gives up.
os.environ.setdefault("PJRT_NPROC", "16")
# XLA's newer emitters take four times as long to compile a tiny program. With them, as users have them, test `make test-slow`,
# whoever sets XLA_FLAGS, and later versions of jax, which do not have the flag and die of one that they do not know.
if "XLA_FLAGS" not in os.environ and importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
# benchmarks/accelerator.sh runs the tests that are marked `accelerator` on what it finds: "" is JAX's own choice.
os.environ["JAX_PLATFORMS"] = os.environ.get("TRANSFORMER_JAX_TEST_PLATFORMS", "cpu")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes many objects that live on. Python's collector, which walks them again and again, took a twelfth of the time.
gc.set_threshold(100_000, 50, 100)


# A worker takes one file after the other; with the longest begun first, the last to end does not keep the others waiting.
LONGEST = [f"test_{name}.py" for name in ("command_lines", "translator", "run", "faults", "decoding", "training")]


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what is imported by now stays


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def _private_caches(tmp_path_factory):
    """Tests neither use nor fill the user's caches of tokenised text and compiled programs."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True, scope="module")
def _forgotten_programs():
    """Each compiled program maps memory; all tests' together pass what Linux lets one process map, and it dies of that."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules that compile many tiny programs and run each once or twice: half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    gc.collect()  # programs that cycles of objects hold


@pytest.fixture(scope="session")
def _folder_of_programs(tmp_path_factory):
    """One for all modules of a worker, many of which train the same tiny models."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def compiled_once(_folder_of_programs):
    """The same few programs are compiled for each training here; from the second on they are read from a folder."""
    options = {
        "jax_compilation_cache_dir": _folder_of_programs,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
