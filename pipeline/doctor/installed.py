"""Whether what is installed is what is needed, and none of what is known to fail."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pipeline.doctor.findings import Finding

__all__ = ["FAULTS", "OURS", "Fault", "faults", "main_packages", "packages", "python"]

OURS = "wsi-pipeline"

_REINSTALL = "pip install --force-reinstall 'wsi-pipeline[cpu]' (or [gpu], or [openvino])"

_SHOWN = (*("dask", "distributed", "imagecodecs", "numcodecs", "numpy", "openslide-bin", "zarr"),)
"""Packages that results depend on most, and that a report of a defect should name."""

_FOR_TESTS = "test"


@dataclass(frozen=True, slots=True)
class Fault:
    """Versions that are known to fail, together where there are several, and who says so."""

    versions: Mapping[str, str]
    breaks: str
    remedy: str
    source: str
    fatal: bool = True

    def among(self, installed: Mapping[str, str]) -> bool:
        """Say whether all of them are installed."""
        return all(
            name in installed and SpecifierSet(wanted).contains(installed[name], prereleases=True)
            for name, wanted in self.versions.items()
        )


FAULTS = (
    Fault(
        {"openslide-bin": ">=4.0.0.9,<4.0.0.12"},
        "the lowest tiles of TIFF slides that are neither JPEG nor JPEG 2000 are arbitrary pixels",
        "pip install --upgrade openslide-bin",
        "https://github.com/openslide/openslide-bin/issues/433",
    ),
    Fault(
        {"zarr": "<3", "numcodecs": ">=0.16"},
        "zarr 2 cannot be imported beside numcodecs 0.16 and newer",
        "pip install --upgrade 'zarr>=3.1.3'",
        "https://github.com/zarr-developers/zarr-python/issues/2963",
    ),
    # Ours are zstd: only who writes Blosc with zarr in the same environment is hit.
    Fault(
        {"numcodecs": "==0.16.0"},
        "arrays that zarr writes with Blosc cannot be opened with any other version",
        "pip install --upgrade numcodecs",
        "https://github.com/zarr-developers/numcodecs/issues/748",
        fatal=False,
    ),
)
"""Combinations that are known to fail, each with its source; what nothing else would tell."""


def python() -> Iterator[Finding]:
    """Look at the version of Python."""
    own = platform.python_version()
    wanted = metadata.metadata(OURS)["Requires-Python"] or ""
    where = f"{own} at {sys.executable}"
    if SpecifierSet(wanted).contains(own, prereleases=True):
        yield Finding.ok(where, version=own, wanted=wanted)
    else:
        yield Finding.problem(
            f"{where}; {OURS} needs {wanted}",
            f"make an environment of a Python {wanted} and install {OURS} there",
            version=own,
            wanted=wanted,
        )


def packages() -> Iterator[Finding]:
    """Look at every package that is needed, also by those that are, and at its version."""
    found = _Needed()
    found.look()
    yield from (Finding.problem(*each) for each in found.unmet)
    if found.unmet:
        return
    shown = ", ".join(f"{name} {found.versions[name]}" for name in _SHOWN)
    extras = ", ".join(sorted(found.extras)) or "none"
    yield Finding.ok(
        f"{OURS} {metadata.version(OURS)} and all {len(found.versions)} packages that it needs: "
        f"{shown}, ...; extras: {extras}",
        versions=dict(sorted(found.versions.items())),
        extras=sorted(found.extras),
    )


def faults() -> Iterator[Finding]:
    """Look for versions that are known to fail."""
    installed = _installed()
    ill = [fault for fault in FAULTS if fault.among(installed)]
    for fault in ill:
        names = " and ".join(f"{name} {installed[name]}" for name in fault.versions)
        make = Finding.problem if fault.fatal else Finding.warning
        yield make(f"{names}: {fault.breaks} ({fault.source})", fault.remedy, source=fault.source)
    if not ill:
        yield Finding.ok(f"none of the {len(FAULTS)} combinations known to fail is installed")


def main_packages() -> tuple[str, ...]:
    """Name the packages that must be alike on all machines of a cluster: those named by us."""
    own = [Requirement(each) for each in metadata.requires(OURS) or ()]
    wanted = [each.name for each in own if not _is_for_tests(each)]
    return (OURS, *sorted({canonicalize_name(name) for name in wanted}))


def _is_for_tests(requirement: Requirement) -> bool:
    marker = requirement.marker
    return (
        marker is not None
        and not marker.evaluate({"extra": ""})
        and (marker.evaluate({"extra": _FOR_TESTS}))
    )


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for each in metadata.distributions():
        name, version = each.metadata["Name"], each.version
        if name and version:
            # The first on the path is the one that is imported.
            found.setdefault(canonicalize_name(name), version)
    return found


@dataclass
class _Needed:
    """Packages that are needed, found from ours on; what is unmet is said with its remedy."""

    versions: dict[str, str] = field(default_factory=dict)
    extras: set[str] = field(default_factory=set)
    unmet: list[tuple[str, str]] = field(default_factory=list)

    def look(self) -> None:
        """Follow requirements from ours to theirs."""
        installed = _installed()
        waiting = [(OURS, frozenset[str]())]
        seen = {*waiting}
        self.extras = _complete_extras(installed)
        while waiting:
            name, extras = waiting.pop()
            wanted = self.extras if name == OURS else extras
            for each in _wanted_by(name, wanted):
                if not self._met(name, each, installed):
                    continue
                found = (canonicalize_name(each.name), frozenset(each.extras))
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)

    def _met(self, by: str, wanted: Requirement, installed: Mapping[str, str]) -> bool:
        name = canonicalize_name(wanted.name)
        version = installed.get(name)
        if version is None:
            self._miss(f"{wanted.name} is not installed, and {by} needs it", wanted, by)
            return False
        if not wanted.specifier.contains(version, prereleases=True):
            self._miss(f"{wanted.name} {version}: {by} needs {wanted.specifier}", wanted, by)
            return False
        self.versions[name] = version
        return True

    def _miss(self, said: str, wanted: Requirement, by: str) -> None:
        one = f"pip install '{wanted.name}{wanted.specifier}'"
        self.unmet.append((said, one if by == OURS else f"{one}, or {_REINSTALL}"))


def _wanted_by(name: str, extras: set[str] | frozenset[str]) -> Iterator[Requirement]:
    for text in metadata.requires(name) or ():
        wanted = Requirement(text)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": each}) for each in ("", *extras)):
            yield wanted


def _complete_extras(installed: Mapping[str, str]) -> set[str]:
    """Give our extras of which every package is there, whatever its version."""
    every = metadata.metadata(OURS).get_all("Provides-Extra") or []
    own = [Requirement(each) for each in metadata.requires(OURS) or ()]
    of_each = {
        extra: [
            canonicalize_name(each.name)
            for each in own
            if each.marker is not None and each.marker.evaluate({"extra": extra})
        ]
        for extra in every
        if extra != _FOR_TESTS
    }
    return {extra for extra, names in of_each.items() if all(name in installed for name in names)}
