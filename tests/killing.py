"""Runs that are killed: ``python -m tests.killing RUN_FILE DIRECTORY KILLS SEED``.

The package is imported once. For every kill a copy of this process begins the run, or goes on with
it, and is killed with SIGKILL at a random moment: starting is most of a small run otherwise. A
last copy ends it. Prints how many kills hit a run that was under way.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time


def main(run_file: str, directory: str, kills: int, seed: int) -> int:
    """Kill so many runs, then let one end; give its exit code."""
    import pipeline.export.overview
    import pipeline.model.runtime
    from pipeline.batch import run
    from pipeline.config.runfile import load_config

    config = load_config(run_file, [f"output.directory={directory}"])
    pipeline.model.runtime.runtime_version()  # is imported; no thread has begun
    chance, took, hit = random.Random(seed), 1.0, 0
    for number in range(kills + 1):
        child = os.fork()
        if child == 0:
            started = time.monotonic()
            summary = run(config)
            os._exit(0 if summary.complete and time.monotonic() > started else 1)
        if number < kills:
            # Often near the beginning, where stores are made, and all over what is left.
            time.sleep(took * chance.random() ** 2)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        hit += os.WIFSIGNALED(status)
    print(hit)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
