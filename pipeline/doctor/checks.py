"""What looks at one thing after the other: where a check's failure ends."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.doctor import engines, installed
from pipeline.doctor.findings import Check, Finding
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.config import RunConfig

__all__ = ["INSTALLATION", "examine"]

INSTALLATION = (
    Check("python", installed.python),
    Check("packages", installed.packages),
    Check("known faults", installed.faults),
    Check("openslide", engines.openslide),
    Check("onnxruntime", engines.onnxruntime),
    Check("imports", engines.imports),
)
"""What needs no run file. Nothing but `packaging` is imported before it is looked at."""


def examine(
    config: RunConfig | None = None,
    *,
    cluster: bool = True,
    timeout_s: float = 60.0,
    say: Callable[[str], None] = lambda _what: None,
) -> Iterator[Finding]:
    """Look at the installation, and at all that a run file names; give what is found, as found.

    ``cluster`` starts its workers too, or finds them, and waits ``timeout_s`` for each answer.
    ``say`` is told what is looked at now. Nothing is left behind, but the synthetic slide where
    the run file asks for one.
    """
    examined = _Examined(say)
    yield from examined.all_of(INSTALLATION)
    if config is None or "imports" in examined.bad:
        return
    from pipeline.doctor.case import Case
    from pipeline.doctor.table import checks_of

    with ExitStack() as opened:
        case = Case(config, timeout_s, opened)
        yield from examined.all_of(checks_of(case, cluster=cluster))


class _Examined:
    """Looks, and keeps which checks had a problem, or were left out for one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.bad: set[str] = set()
        self._say = say

    def all_of(self, checks: Iterable[Check]) -> Iterator[Finding]:
        """Give what is found, check by check."""
        for check in checks:
            unmet = [name for name in check.needs if name in self.bad]
            if unmet:
                found = [Finding("skipped", ", ".join(unmet))]
            else:
                self._say(check.name)
                found = list(_found(check.look))
            if any(each.state in ("problem", "skipped") for each in found):
                self.bad.add(check.name)
            yield from (replace(each, check=check.name) for each in found)


def _found(look: Callable[..., Iterator[Finding]]) -> Iterator[Finding]:
    """Give what a check finds, what it warns of, and the error that ends it as a problem."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        try:
            yield from look()
        except PipelineError as error:
            yield Finding.of_error(str(error))
        except ImportError as error:
            yield Finding.problem(
                f"{' '.join(str(error).split())}, when it is imported",
                "install again what is named: pip install --force-reinstall",
            )
        except Exception as error:  # noqa: BLE001 - one that nobody foresaw must not hide the others
            yield Finding(
                "problem",
                f"unforeseen {type(error).__name__}: {' '.join(str(error).split())}",
                "report it with what --json says, which has the traceback",
                traceback=traceback.format_exc(),
            )
    for each in warned:
        if issubclass(each.category, UserWarning):
            said, _, remedy = " ".join(str(each.message).split()).partition("; ")
            yield Finding.warning(said, remedy or "see whether that is meant")
