"""``python -m tests.fuzzing [TARGET ...]``: mutate until the time is over; see the package."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.fuzzing.harness import Report, Target, fuzz
from tests.fuzzing.targets import TARGETS


def main() -> int:
    """Fuzz what is named, or everything; 1 where something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("target", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other cases")
    parser.add_argument("--least", type=int, default=40, help="cases, whatever the time")
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--keep", type=Path, help="folder for what failed")
    parser.add_argument("--report", type=Path, help="file for what became of them, as JSON")
    asked = parser.parse_args()
    unknown = [name for name in asked.target if name not in TARGETS]
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there is {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as scratch:
        root = (asked.keep or Path(scratch)).absolute()
        reports = [_run(TARGETS[name], root, asked) for name in asked.target or TARGETS]
    if asked.report:
        told = [{**vars(each), "failures": list(map(asdict, each.failures))} for each in reports]
        asked.report.write_text(json.dumps(told))
    return int(any(report.failures for report in reports))


def _run(target: Target, root: Path, asked: argparse.Namespace) -> Report:
    report = fuzz(
        target,
        root / target.name,
        seed=asked.seed,
        seconds=asked.seconds,
        least=asked.least,
        only=asked.case,
    )
    print(f"{target.name}: {report.cases} cases: {dict(report.outcomes)}", flush=True)
    for failure in report.failures:
        again = f"python -m tests.fuzzing {target.name} --seed {asked.seed} --case {failure.case}"
        print(f"{again}: {failure.what}\n{failure.told}", file=sys.stderr, flush=True)
    return report


if __name__ == "__main__":
    sys.exit(main())
