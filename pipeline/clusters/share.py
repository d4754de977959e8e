"""What every worker is told: its share of its machine, and where to listen."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import dask

from pipeline.files.rights import scratch
from pipeline.model.session import THREADS_VARIABLE
from pipeline.process import APART_BYTES, TRIM_BYTES

__all__ = [
    "TEMPORARY",
    "WORKER_ARGUMENTS",
    "environment",
    "little_kept",
    "own_scratch",
    "scratch_named",
    "set_of_distributed",
]

TEMPORARY, _OURS = "temporary-directory", "wsi-pipeline.own-temporary-directory"

_KEPT = {
    "distributed.worker.profile.cycle": ("1000ms", "10s"),
    "distributed.admin.low-level-log-length": (1000, 100),
}
"""How long one of Dask's profiles is of and how many of each are kept, by its default and here."""

WORKER_ARGUMENTS = (
    *("--preload", "pipeline.process.worker", "--preload-nanny", "pipeline.process.worker"),
    *("--dashboard-address", "127.0.0.1:0"),
)
"""What a worker on another machine is told: where to listen, and what it is to load."""


def environment(session_threads: int) -> dict[str, str]:
    """Give the environment of a worker that has ``session_threads`` cores for each block.

    Every one of these libraries would else start as many threads as the machine has cores, in
    each worker. The model gets the cores; what else there is runs in the block's own thread. Dask's
    nannies say the same to OpenMP, MKL and OpenBLAS, unless a site has configured them.
    """
    one = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        THREADS_VARIABLE: str(session_threads),
        **dict.fromkeys((*one, "BLOSC_NTHREADS", "RAYON_NUM_THREADS"), "1"),
        "ZARR_THREADING__MAX_WORKERS": str(session_threads),
        # See `pipeline.process.return_freed_memory`.
        "MALLOC_TRIM_THRESHOLD_": str(TRIM_BYTES),
        "MALLOC_MMAP_THRESHOLD_": str(APART_BYTES),
        **{_variable(name): str(to) for name, to in little_kept().items()},
    }


def set_of_distributed(told: Mapping[str, object]) -> AbstractContextManager[object]:
    """Set config of Dask's scheduler and workers for as long as the context is open.

    Its defaults are there before: they come with `distributed`, and what was set without them
    would, where it is taken back, take all of them along.
    """
    import distributed  # noqa: F401

    return dask.config.set(told)


def little_kept() -> dict[str, object]:
    """Give how much of its profiles Dask keeps, in its config, where that says nothing else.

    Whatever is a server to Dask samples its stacks all the time, and keeps the last profiles, of
    which the dashboard and `performance_report` show the sum. A tree of ten seconds is little
    larger than one of a second: the same quarter of an hour takes some tenth of the memory. Not a
    minute: what is shown begins with the first that is over.
    """
    set_to = {name: dask.config.get(name, dasks) for name, (dasks, _) in _KEPT.items()}
    return {name: ours for name, (dasks, ours) in _KEPT.items() if set_to[name] in (dasks, ours)}


def own_scratch() -> dict[str, str]:
    """Give what Dask's config says of temporary files: a folder of ours, unless it names one."""
    return {} if scratch_named() else dict.fromkeys((TEMPORARY, _OURS), str(scratch()))


def scratch_named() -> bool:
    """Say whether Dask's config has a folder for temporary files that is not of `own_scratch`."""
    named = dask.config.get(TEMPORARY, None)
    return named is not None and named != dask.config.get(_OURS, None)


def _variable(name: str) -> str:
    """Give the variable of the environment that Dask takes a key of its config from."""
    return f"DASK_{name.upper().replace('.', '__').replace('-', '_')}"
