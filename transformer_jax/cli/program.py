"""A program's start and end: what must be set up before JAX is imported, standard streams, exit codes."""

import contextlib
import ctypes
import errno
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from transformer_jax.distributed import cluster
from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.platform import find_devices, import_jax, tell_unused_accelerator, without_warning_of_jax
from transformer_jax.storage.cache_folders import use_compilation_cache

__all__ = ["Processes", "main", "report_to_all", "set_up", "told_compilations"]

log = logging.getLogger(__name__)

Processes = tuple[str | None, int | None, int | None]  # the values of --coordinator, --processes and --process


def main(run: Callable[[], Any]) -> NoReturn:
    """Runs a script and exits with one of these codes:

    * 0: done, or the reader of its output has left
    * 1: a bug of ours; its traceback is printed
    * 2: bad input (UserError) or a full disk; one line on standard error
    * 75: to be continued by the same command: training, `translate.py --resume` or `score_pairs` was stopped by SIGTERM or
      Ctrl-C, or another of several processes was lost or never came; one line on standard error
    * 130: Ctrl-C, where there is nothing to continue
    * of several processes, the code of the first that ended with an error
    """
    _open_standard_streams()
    try:
        run()
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        with contextlib.suppress(OSError):
            print(*(f"{choice}\n" for choice in error.choices), sep="", end="", file=sys.stderr)
        _end(f"error: {error}", cluster.BAD_INPUT)
    except ToBeContinued as error:
        _end(str(error), cluster.TO_BE_CONTINUED)
    except BrokenPipeError:
        _drop_standard_output()  # the reader of a pipe has left (`| head`), which is no error
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f"{error.filename}: " if error.filename else ""
            _end(f"error: {where}{error.strerror}: free some and run the same command again", cluster.BAD_INPUT)
        if cluster.shows_loss(error):
            code, line = cluster.end_of_another() or (cluster.TO_BE_CONTINUED, cluster.LOST)
            _end(line, code)
        traceback.print_exc()
        cluster.leave(1, f"{type(error).__name__}: {error}")
    gc.freeze()  # at its end Python looks through all objects for garbage, several times: a third of a second
    sys.exit(0)


def _end(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    with contextlib.suppress(OSError):  # the reader of standard error may have left
        print(line, file=sys.stderr, flush=True)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:  # Python would flush again at its end, and fail
        _drop_standard_output()
    cluster.leave(code, line)


def _drop_standard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_standard_streams() -> None:
    """Opens standard streams that were closed (`>&-`) as /dev/null: a file opened later would get the number of one, and
    with it the lines meant for the stream. Python has None for a stream that was closed when it started."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def set_up(processes: Processes | None = None, trains: bool = False) -> None:
    """Prepares the process, once, before anything else imports JAX: the log goes to standard error, compiled programs are kept
    on disk, the other processes are joined, and JAX's devices are found. The log says where JAX does not use a GPU or TPU that
    is there.

    `processes` are the values of the three flags; if all are None, Slurm's or the TPU slice's processes are joined. Without
    `processes` the program works alone, wherever it runs. One that `trains` gives all its threads one heap
    (`_keep_freed_memory`). Raises UserError for impossible flags and environment variables.
    """
    _keep_freed_memory(one_heap=trains)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    logging.getLogger("transformer_jax").setLevel(logging.INFO)
    # Orbax's threads log errors that are raised as well: one report of each is enough.
    for name, level in {"absl": logging.CRITICAL, "orbax": logging.CRITICAL, "jax": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # a GPU or TPU that this jaxlib cannot use
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # Several virtual devices on few cores starve each other of threads in a reduction, until XLA gives up after 40 s.
        os.environ.setdefault("PJRT_NPROC", "16")
    import_jax()
    use_compilation_cache()
    if processes is None:
        cluster.stay_alone()
    else:
        cluster.join(*processes)
    with without_warning_of_jax():
        find_devices(alone=not cluster.several())
    tell_unused_accelerator()


@contextlib.contextmanager
def report_to_all(processes: Processes) -> Iterator[None]:
    """Holds what a program does before `set_up`. If a UserError ends it and it is one of several processes, it joins the others
    first, so that they end with the same error; without it they would wait for this process in vain."""
    try:
        yield
    except UserError:
        if cluster.others(*processes):
            set_up(processes)
        raise


@contextlib.contextmanager
def told_compilations(verbose: bool) -> Iterator[None]:
    """If `verbose`, the log says at the end of the block how many programs were compiled in it, or read from the cache."""
    if not verbose:
        yield
        return
    from transformer_jax.training.compilations import Compilations

    compilations = Compilations()
    yield
    log.info("%s", compilations.take_words())  # not after an error, whose line stands alone


def _keep_freed_memory(one_heap: bool) -> None:
    """Makes the C library (glibc, which alone has `mallopt`) keep freed memory for the next step; to be called before the first
    thread starts.

    XLA on CPU allocates its whole workspace at each step and frees it; the kernel then has to clear every page anew. Keeping
    the memory took a step of Transformer-tiny (10k vocabulary, 3072 positions, two cores) from 0.72 to 0.55 s, with 0 instead
    of 153,000 page faults. No size is given back, because workspaces of several GB are common.

    The workspace of a training step is kept in `one_heap` only: others end at 64 MB. Its threads wait for each other whenever
    they allocate, as compilation does all the time, and searches side by side at every product. Where a process compiled its
    programs itself, 1,000 captions took 2.3 s with one heap and 1.3 s with many, after a first pass of 12.6 and 6.5 s; with
    programs from the cache 1.5 and 1.4 s (bfloat16, beam 4, two cores).
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):
        arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2  # the names in malloc.h
        for name, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 2**26)):
            library.mallopt(name, value)
        if one_heap:
            library.mallopt(arena_max, 1)
            _ask_for_huge_pages(library)


def _ask_for_huge_pages(library: ctypes.CDLL) -> None:
    """Makes the heap as large as half of the machine's memory, in addresses alone, and asks the kernel for pages of 2 MB there.

    A step that reads and writes hundreds of MB then seldom waits for the table of its pages: it takes 3 to 7% less time (the
    recipe `multi30k`, two cores of a virtual machine), and the first one comes 0.8 s later. Where the kernel has no such pages,
    or counts addresses as memory, all is as it was.
    """
    if _addresses_count():
        return
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes, library.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page, use_huge_pages = os.sysconf("SC_PAGE_SIZE"), 14  # the latter in mman.h
    size = os.sysconf("SC_PHYS_PAGES") * page // 2
    if start := library.malloc(size):
        first = -(-start // page) * page
        library.madvise(first, start + size - first, use_huge_pages)
        library.free(start)


def _addresses_count() -> bool:
    """Whether a process may not have as many addresses as it likes: by a limit of its own (`ulimit -v` and -d), or because the
    kernel promises no memory that it may not have (`vm.overcommit_memory` 2)."""
    import resource  # which Windows has not

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    try:
        promises = Path("/proc/sys/vm/overcommit_memory").read_text()
    except OSError:
        promises = ""
    return promises.strip() == "2" or any(limit != resource.RLIM_INFINITY for limit in limits)
