"""The shape of the code: layers, one home per engine, where errors are caught, what is imported.

DESIGN.md section 3 in tables. A new module goes into `LAYERS`; a new engine into `HOMES`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("errors", "geometry"),
    ("readers", "lazy", "handles", "config", "colour", "files", "ngff", "process", "display"),
    ("slide", "model", "store", "objects"),
    ("plan", "tissue"),
    ("execute", "clusters", "results", "export", "demo"),
    ("batch", "books", "manifest", "logs", "report", "checks", "doctor", "scaling"),
    ("view",),
    ("commands", "cli", "__main__"),
)
"""Modules and subpackages, lowest first; each imports only from its own layer and below."""

HOMES = {
    "openslide": ("readers/openslide.py",),
    "tifffile": ("demo/", "export/ome_tiff.py"),
    "imagecodecs": ("readers/tiff/decode.py", "demo/"),
    "wsidicom": ("readers/wsidicom.py",),
    "pydicom": ("readers/wsidicom.py",),
    "onnxruntime": ("model/runtime.py",),
    "onnx": ("model/builtin/build.py",),
    "zarr": ("store/", "readers/ome_zarr.py", "readers/zarr_stores.py"),
    "numcodecs": ("store/shards.py",),
    "google_crc32c": ("store/shards.py",),
    "distributed": (
        "clusters/",
        "execute/manned.py",
        "execute/distributing.py",
        "execute/live.py",
        "logs/forwarding.py",
        "execute/schedulers.py",
    ),
    "tornado": ("view/server.py",),
    "anywidget": ("view/widget.py",),
    "prometheus_client": ("process/metrics.py",),
    "dask_jobqueue": ("clusters/",),
    "cryptography": ("clusters/security.py",),
    "pydantic": ("config/", "model/card.py", "model/values.py", "model/written.py"),
    "pydantic_core": ("config/", "model/written.py"),
    "yaml": ("config/runfile.py", "files/notation.py"),
    "packaging": ("doctor/installed.py",),
    "matplotlib": (
        "export/overview.py",
        "results/drawing.py",
        "report/pictures.py",
        "view/colours.py",
        "results/figure.py",
    ),
    "IPython": ("display/notebook.py",),
    "jinja2": ("report/pages.py",),
    "markupsafe": ("report/pages.py",),
    "pyarrow": ("store/tables.py", "manifest/listed.py", "export/"),
    "shapely": ("objects/outlines.py",),
    "skimage": ("tissue/", "objects/"),
    "h5py": ("export/hdf5.py",),
    "anndata": ("export/h5ad.py", "export/spatial.py"),
    "pandas": ("export/h5ad.py", "export/spatial.py"),
    "geopandas": ("export/spatial.py",),
    "spatialdata": ("export/spatial.py",),
    "obstore": ("files/cloud/",),
    "scipy": ("model/activate.py", "objects/"),
}
"""Where an engine may be imported: files, or a folder ending in ``/``."""

METHODS = {"blockwise", "map_blocks", "map_overlap"}
PHRASES = {*METHODS, "from_array", "from_delayed", "delayed"}
"""What builds a dask graph; `pipeline.lazy` alone does. Arrays have some of them as methods."""

COMPUTERS = (
    *("execute/__init__.py", "execute/schedulers.py", "execute/distributing.py"),
    *("execute/finding.py", "execute/staining.py", "checks/examine.py"),
)
"""Where something is computed."""

BLIND = {
    ("readers/wsidicom.py", "_translated"): "what wsidicom and its decoders raise shares no parent",
    ("doctor/checks.py", "_found"): "a check that fails is a finding, and the others go on",
    ("batch/__init__.py", "_outcome"): "no slide may stop the others; the log has its traceback",
    ("batch/__init__.py", "_reported"): "a defect of a page must not hide what was done",
    ("handles.py", "using"): "whatever was raised during its use, the handle is evicted; raised on",
    (
        "model/runtime.py",
        "run_graph",
    ): "what the runtime raises shares no parent; others are raised on",
    ("model/runtime.py", "_open"): "what the runtime raises shares no parent; others are raised on",
}
"""File and function -> why it may catch anything."""

CONTAINING = {
    *("batch/__init__.py", "batch/recipe.py", "cli.py"),
    *("execute/schedulers.py", "execute/distributing.py"),
    "commands/export.py",
    "doctor/checks.py",
}
"""Where a failure ends: one slide's, one block's, the command's, one check's, one export's."""

MOST_LINES = 300


@dataclass(frozen=True)
class Import:
    """One imported module, and where."""

    line: int
    module: str


@dataclass(frozen=True)
class Module:
    """One parsed file of the package."""

    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """What it imports anywhere, in functions and for type checking too."""
        return tuple(
            Import(getattr(node, "lineno", 0), name)
            for node in ast.walk(self.tree)
            for name in _imported(node)
        )

    @property
    def unit(self) -> str:
        """Its name in `LAYERS`."""
        return self.path.split("/")[0].removesuffix(".py")

    def functions(self) -> Iterator[tuple[str, ast.AST]]:
        """Give every node with the name of the innermost function around it."""
        waiting: list[tuple[str, ast.AST]] = [("", self.tree)]
        while waiting:
            name, node = waiting.pop()
            yield name, node
            inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else name
            waiting += ((inner, child) for child in ast.iter_child_nodes(node))


def _imported(node: ast.AST) -> Iterator[str]:
    """Give the full names a node imports: by statement, or as a string that names a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import"
        # What is imported from a package may be a module of it.
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        yield from (value for value in constants if isinstance(value, str))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES:
        yield node.value


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _modules() -> list[Module]:
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    return [
        Module(path.relative_to(ROOT / "pipeline").as_posix(), path.read_text("utf-8"))
        for path in files
    ]


MODULES = _modules()

NAMES = {
    f"pipeline.{module.path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"
    for module in MODULES
}
"""Full names of all modules, for the tables that name one to import it later."""

each = pytest.mark.parametrize("module", MODULES, ids=[module.path for module in MODULES])


def _at_home(path: str, homes: tuple[str, ...]) -> bool:
    return any(path == home or (home.endswith("/") and path.startswith(home)) for home in homes)


def test_every_module_has_a_layer() -> None:
    listed = [name for layer in LAYERS for name in layer]
    assert len(listed) == len(set(listed)), "a module is in two layers"
    missing = {module.unit for module in MODULES} - {*listed, "__init__"}
    assert not missing, f"{sorted(missing)}: not in LAYERS of {__file__}; add each to its layer"


@each
def test_imports_only_point_down(module: Module) -> None:
    if module.path == "__init__.py":  # names of every layer, each imported when it is used
        return
    layers = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    own = layers.get(module.unit, len(LAYERS))  # one without a layer fails elsewhere
    upwards = [
        f"{module.path}:{line}: layer {own} imports {name}, layer {layers[unit]}"
        for line, name, unit in _own_imports(module)
        if layers.get(unit, 0) > own
    ]
    assert not upwards, "\n".join(upwards)


def test_no_two_units_need_each_other() -> None:
    """Of a layer's units one may use another, and never both."""
    needs: dict[str, set[str]] = {}
    for module in MODULES:
        if module.path != "__init__.py":
            found = {unit for _, _, unit in _own_imports(module)} - {module.unit}
            needs.setdefault(module.unit, set()).update(found)
    waiting = dict(needs)
    while free := [unit for unit, used in waiting.items() if not used & waiting.keys()]:
        for unit in free:
            del waiting[unit]
    assert not waiting, f"in a circle, or above one: {sorted(waiting)}"


def _own_imports(module: Module) -> Iterator[tuple[int, str, str]]:
    for found in module.imports:
        package, _, rest = found.module.partition(".")
        unit = rest.split(".")[0]
        # `from pipeline import __version__`: the package itself lies below everything.
        if package == "pipeline" and unit not in ("", "__version__"):
            yield found.line, found.module, unit


@each
def test_an_engine_is_imported_in_its_home_only(module: Module) -> None:
    astray = [
        f"{module.path}:{found.line}: imports {engine}, which lives in {', '.join(homes)}"
        for found in module.imports
        for engine, homes in HOMES.items()
        if found.module.split(".")[0] == engine and not _at_home(module.path, homes)
    ]
    assert not astray, "\n".join(astray)


@each
def test_graphs_are_phrased_in_lazy_only(module: Module) -> None:
    # The latter takes apart what the former phrased.
    if module.path in ("lazy/__init__.py", "lazy/tasks.py"):
        return
    # Others have a `from_array` too, so that it counts only beside an import of dask.
    by_dask = any(found.module.split(".")[0] == "dask" for found in module.imports)
    phrases = {
        f"{module.path}:{node.lineno}: .{node.attr}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in (PHRASES if by_dask else METHODS)
    } | {
        f"{module.path}:{found.line}: {found.module}"
        for found in module.imports
        if found.module.split(".")[0] == "dask" and PHRASES & set(found.module.split("."))
    }
    assert not phrases, f"belongs into lazy.py: {sorted(phrases)}"


@each
def test_anything_is_computed_where_it_is_run_only(module: Module) -> None:
    if module.path in COMPUTERS:
        return
    calls = {
        f"{module.path}:{node.lineno}: {_called(node)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and (isinstance(node.func, ast.Attribute) and node.func.attr in ("compute", "persist"))
    } | {
        f"{module.path}:{found.line}: {found.module}"
        for found in module.imports
        if found.module in ("dask.compute", "dask.persist")
        or (found.module.startswith("dask.") and found.module.endswith(".get_sync"))
    }
    assert not calls, f"belongs into {' or '.join(COMPUTERS)}: {sorted(calls)}"


def _handled(module: Module) -> Iterator[tuple[str, int, str]]:
    """Give function, line and name of every class of errors that is caught or suppressed."""
    for function, node in module.functions():
        caught: list[ast.expr | None] = []
        if isinstance(node, ast.ExceptHandler):
            caught = list(node.type.elts) if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Call) and _called(node) == "suppress":
            caught = list(node.args)
        for kind in caught:
            name = "BaseException" if kind is None else ast.unparse(kind).split(".")[-1]
            yield function, getattr(node, "lineno", 0), name


def test_nothing_is_caught_blindly() -> None:
    found = {
        (module.path, function): line
        for module in MODULES
        for function, line, name in _handled(module)
        if name in ("Exception", "BaseException")
    }
    unlisted = {f"{path}:{found[path, function]}" for path, function in found.keys() - BLIND.keys()}
    assert not unlisted, f"blind except: {sorted(unlisted)}; name the errors that are meant"
    assert not BLIND.keys() - found.keys(), "BLIND names what is no longer there"


@each
def test_failures_are_contained_in_few_places(module: Module) -> None:
    lines = [line for _, line, name in _handled(module) if name == "PipelineError"]
    assert not lines or module.path in CONTAINING, (
        f"{module.path}:{lines}: catches every error of this package; "
        f"only {sorted(CONTAINING)} may end a failure"
    )


@each
def test_a_file_can_be_read_in_one_go(module: Module) -> None:
    length = module.source.count("\n")
    assert length <= MOST_LINES, f"{module.path}: {length} lines; split it by idea"


def _loaded_by(statement: str) -> set[str]:
    """Give the top-level names of what a fresh interpreter has imported after a statement."""
    code = (
        "import json, sys\n"
        f"try:\n    {statement}\n"
        "finally:\n    print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(last[0])}


HEAVY = {
    *("dask", "distributed", "numpy", "zarr", "pydantic", "onnxruntime", "openslide", "skimage"),
    *("scipy", "pyarrow", "shapely", "tornado", "matplotlib"),
}


@pytest.mark.parametrize(
    ("statement", "there"),
    [
        ("import pipeline", "pipeline"),
        ("import pipeline.cli", "click"),
        ("from pipeline.cli import main; main(['--help'])", "click"),
        ("from pipeline.cli import main; main(['run', '--help'])", "click"),
    ],
)
def test_help_and_imports_are_light(statement: str, there: str) -> None:
    loaded = _loaded_by(statement)
    assert there in loaded
    assert not loaded & HEAVY


def test_public_names_resolve() -> None:
    assert list(pipeline.__all__) == sorted(pipeline.__all__)
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pipeline.no_such_name
