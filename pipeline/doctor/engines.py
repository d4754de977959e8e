"""Whether OpenSlide and ONNX Runtime are there, which ones they are, and what they can do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipeline.doctor.findings import Finding

__all__ = ["imports", "onnxruntime", "openslide"]

_BINARY = "openslide-bin"
_LEAST = 4


def openslide() -> Iterator[Finding]:
    """Look at the OpenSlide library that is loaded."""
    try:
        from pipeline.readers.openslide import library_version

        version = library_version()
    except (ImportError, OSError) as error:
        yield Finding.problem(
            f"OpenSlide cannot be loaded: {' '.join(str(error).split())}",
            f"pip install --force-reinstall openslide-python {_BINARY}",
        )
        return
    try:
        whose = f"{_BINARY} {metadata.version(_BINARY)}"
    except metadata.PackageNotFoundError:
        whose = f"of the system, because {_BINARY} is not installed"
    said = f"OpenSlide {version} ({whose})"
    if int(version.partition(".")[0]) < _LEAST:
        # 4.0 refuses to work with such a pixman, 3.4.1 does not look:
        # https://github.com/openslide/openslide/issues/278
        yield Finding.problem(
            f"{said}: before version 4 it gives black areas, and no error, beside pixman 0.38",
            f"pip install --force-reinstall {_BINARY}",
            version=version,
        )
    else:
        yield Finding.ok(said, version=version)


def onnxruntime() -> Iterator[Finding]:
    """Look at the builds of ONNX Runtime, of which there must be one, and at its providers."""
    from pipeline.model.builds import runtime_builds
    from pipeline.model.session import available_providers, runtime_version

    builds = runtime_builds()
    names = " and ".join(f"{name} {version}" for name, version in builds.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of several builds: it is said here
        version = runtime_version()
        providers = available_providers()
    if len(builds) > 1:
        # https://github.com/microsoft/onnxruntime/issues/26996
        yield Finding.problem(
            f"{names} are installed side by side and overwrite each other",
            f"pip uninstall {' '.join(builds)}, then pip install one of wsi-pipeline[cpu], "
            "wsi-pipeline[gpu] and wsi-pipeline[openvino]",
            builds=builds,
            providers=providers,
        )
    else:
        yield Finding.ok(
            f"{names or f'a build of its own, {version}'}; providers that it is built for: "
            f"{', '.join(providers)}",
            builds=builds,
            providers=providers,
        )


def imports() -> Iterator[Finding]:
    """Import all that a run does; an `ImportError` says what cannot be."""
    import pipeline.batch
    import pipeline.execute.distributing
    import pipeline.readers.choose
    import pipeline.readers.openslide
    import pipeline.readers.tiff

    yield Finding.ok(f"all that a run needs can be imported from {Path(pipeline.__file__).parent}")
