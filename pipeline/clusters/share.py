"""What every worker is told: its share of its machine, and where to listen."""

from __future__ import annotations

import dask

from pipeline.files.rights import scratch
from pipeline.model.session import THREADS_VARIABLE
from pipeline.process import APART_BYTES, TRIM_BYTES

__all__ = [
    "TEMPORARY",
    "WORKER_ARGUMENTS",
    "environment",
    "own_scratch",
    "scratch_named",
    "seldom_kept",
]

TEMPORARY, _OURS = "temporary-directory", "wsi-pipeline.own-temporary-directory"

_CYCLE, _DASKS_CYCLE, _OUR_CYCLE = "distributed.worker.profile.cycle", "1000ms", "60s"

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
        **{f"DASK_{name.upper().replace('.', '__')}": to for name, to in seldom_kept().items()},
    }


def seldom_kept() -> dict[str, str]:
    """Give how long one of Dask's profiles is of, in its config: a minute, unless that says so.

    Whatever is a server to Dask samples its stacks all the time, and keeps the last 3,600 profiles.
    A tree of a second has a third of the nodes of one of a minute, and there are sixty of them.
    """
    set_to = dask.config.get(_CYCLE, _DASKS_CYCLE)
    return {_CYCLE: _OUR_CYCLE} if set_to in (_DASKS_CYCLE, _OUR_CYCLE) else {}


def own_scratch() -> dict[str, str]:
    """Give what Dask's config says of temporary files: a folder of ours, unless it names one."""
    return {} if scratch_named() else dict.fromkeys((TEMPORARY, _OURS), str(scratch()))


def scratch_named() -> bool:
    """Say whether Dask's config has a folder for temporary files that is not of `own_scratch`."""
    named = dask.config.get(TEMPORARY, None)
    return named is not None and named != dask.config.get(_OURS, None)
