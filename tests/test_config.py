"""The run file: what it says, what it refuses, and how it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline import config
from pipeline.config import RunConfig
from pipeline.config.runfile import config_table, describe_fields, dump_config, load_config
from pipeline.errors import ConfigError
from pipeline.export import EXPORTS, OF_RUNS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LEAST = "slides: a.svs\nmodel: builtin:nuclei\n"
KINDS = " or ".join([", ".join(EXPORTS), *OF_RUNS])


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    return folder / "x.yaml"


def load(run_file: Path, text: str, *overrides: str) -> RunConfig:
    run_file.write_text(text, encoding="utf-8")
    return load_config(run_file, overrides)


def problems(run_file: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(run_file, text, *overrides)
    return str(caught.value).replace(str(run_file), "x.yaml").splitlines()


SHIPPED = sorted(ROOT.glob("configs/*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_every_shipped_run_file_loads(file: Path) -> None:
    loaded = load_config(file)
    assert loaded.output.directory.startswith(str(ROOT / "results"))
    assert (loaded.cluster.kind == "slurm") == file.stem.startswith("slurm")


def test_the_demo_run_reads_the_slide_that_it_writes() -> None:
    demo = load_config(ROOT / "configs" / "demo.yaml")
    assert demo.demo is not None
    assert demo.slides == demo.demo.slide == str(ROOT / "demo" / "demo.svs")
    assert demo.model == "builtin:nuclei"
    assert demo.export == ["overview", "report"]
    assert demo.cluster.kind == "local"


def test_slides_and_model_are_enough(run_file: Path) -> None:
    least = load(run_file, LEAST)
    assert (least.output.dtype, least.output.block, least.output.chunk) == ("uint8", "auto", "auto")
    assert (least.resolution.mpp, least.resolution.missing) == ("model", "error")
    assert (least.tissue.method, least.tissue.min_area_um2, least.tissue.mpp) == ("otsu", 10000, 8)
    assert (least.tissue.min_fraction, least.tissue.min_hole_um2) == (0, 5000)
    assert (least.cluster.kind, least.cluster.dashboard) == ("local", "127.0.0.1:8787")
    assert (least.export, least.on_error, least.demo) == ([], "continue", None)


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


# The first example imports dask, which is slow.
@settings(deadline=None, max_examples=50)
@given(
    slides=names | st.lists(names, min_size=1),
    area=st.floats(min_value=0, allow_infinity=False),
    limit=st.sampled_from(["auto", "4 GiB", 2**30]),
    seed=st.none() | st.integers(0, 2**64 - 1),
)
def test_a_dumped_config_loads_as_an_equal_one(
    tmp_path_factory: pytest.TempPathFactory,
    slides: str | list[str],
    area: float,
    limit: str | int,
    seed: int | None,
) -> None:
    given_values = {
        "slides": slides,
        "model": "m",
        "tissue": {"min_area_um2": area},
        "cluster": {"memory_limit": limit},
        "demo": None if seed is None else {"slide": "d.svs", "seed": seed},
    }
    folder = tmp_path_factory.mktemp("dump")
    first = folder / "first.yaml"
    first.write_text(dump_config(RunConfig.model_validate(given_values)), encoding="utf-8")
    loaded = load_config(first)
    assert loaded.tissue.min_area_um2 == area
    assert (None if loaded.demo is None else loaded.demo.seed) == seed
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    second = elsewhere / "second.yaml"
    second.write_text(dump_config(loaded), encoding="utf-8")
    assert load_config(second) == loaded


def test_text_that_looks_like_a_number_survives_a_dump(run_file: Path) -> None:
    values = {"slides": "1e5", "model": "2026-01-31", "cluster": {"dashboard": "0x1f"}}
    loaded = load(run_file, dump_config(RunConfig.model_validate(values)))
    assert Path(str(loaded.slides)).name == "1e5"
    assert Path(str(loaded.model)).name == "2026-01-31"
    assert loaded.cluster.dashboard == "0x1f"


def test_a_number_may_be_written_with_an_exponent(run_file: Path) -> None:
    assert load(run_file, LEAST + "tissue: {min_area_um2: 2e4}").tissue.min_area_um2 == 20000


def test_a_folder_named_like_a_date_is_text(run_file: Path) -> None:
    loaded = load(run_file, LEAST + "output: {directory: 2026-01-31}")
    assert loaded.output.directory == str(run_file.parent / "2026-01-31")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "tissue: {min_aera_um2: 3}",
            "tissue.min_aera_um2: unknown key; did you mean min_area_um2?",
        ),
        (
            "resolution: {zzz: 1}",
            "resolution.zzz: unknown key; known keys: mpp, missing, assume_mpp",
        ),
        ("resolution: {mpp: {levle: 1}}", "resolution.mpp.levle: unknown key; did you mean level?"),
        (
            "output: {dtype: uint9}",
            "output.dtype: uint9 is not allowed; give uint8, float16 or float32",
        ),
        ("output: {block: 10}", "output.block: 10 is not allowed; give auto or integer >= 64"),
        (
            "output: {block: large}",
            "output.block: large is not allowed; give auto or integer >= 64",
        ),
        ("output: {directory: ''}", "output.directory: '' is not allowed; give path"),
        (
            "tissue: {min_fraction: 1.5}",
            "tissue.min_fraction: 1.5 is not allowed; give number >= 0 and <= 1",
        ),
        (
            "tissue: {min_area_um2: .inf}",
            "tissue.min_area_um2: .inf is not allowed; give number >= 0",
        ),
        ("tissue: {mpp: 0.01}", "tissue.mpp: 0.01 is not allowed; give number > 0.01 and < 100"),
        (
            "tissue:",
            (
                "tissue: null is not allowed; give a block with the keys "
                "method, mask, model, threshold, min_fraction, min_area_um2, min_hole_um2, mpp, "
                "quality, exclude"
            ),
        ),
        (
            "tissue: {method: mask}",
            "tissue.mask: null is not allowed; method: mask needs a value here",
        ),
        (
            "tissue: {mask: m.png}",
            "tissue.mask: m.png is not allowed; leave it out, or set method: mask",
        ),
        (
            "tissue: {method: model}",
            "tissue.model: null is not allowed; method: model needs a value here",
        ),
        (
            "tissue: {model: card.yaml}",
            "tissue.model: card.yaml is not allowed; leave it out, or set method: model",
        ),
        (
            "tissue: {quality: [pen], exclude: [pen, blur]}",
            (
                "tissue.exclude: [pen, blur] is not allowed; "
                "add blur to quality, so that it is looked for"
            ),
        ),
        *[
            (
                f"resolution: {{mpp: {wrong}}}",
                (
                    f"resolution.mpp: {wrong} is not allowed; give model, number > 0.01 and < 100 "
                    "or a block with the keys level"
                ),
            )
            for wrong in ("modell", "0", "-0.5", ".nan", "250", "true", "null", "[0.5, 0.5]")
        ],
        (
            "resolution: {mpp: {level: -1}}",
            "resolution.mpp.level: -1 is not allowed; give integer >= 0",
        ),
        (
            "resolution: {missing: assume}",
            "resolution.assume_mpp: null is not allowed; missing: assume needs a value here",
        ),
        (
            "resolution: {missing: assume, assume_mpp: 250}",
            "resolution.assume_mpp: 250 is not allowed; give number > 0.01 and < 100 or null",
        ),
        ("export: [overview, pdf]", f"export: pdf is not allowed; give [{KINDS}, ...]"),
        ("on_error: skip", "on_error: skip is not allowed; give continue or stop"),
        (
            "cluster: {workers: yes}",
            "cluster.workers: true is not allowed; give auto or integer >= 1",
        ),
        (
            "cluster: {memory_limit: 4 QB}",
            "cluster.memory_limit: 4 QB is not allowed; give auto, or 1 MiB or more, such as 4 GiB",
        ),
        (
            "cluster: {memory_limit: 4}",
            "cluster.memory_limit: 4 is not allowed; give auto, or 1 MiB or more, such as 4 GiB",
        ),
        (
            "colour: {target: https://h/r.svs}",
            (
                "colour.target: https://h/r.svs is not allowed; leave it out, or set normalise: "
                "macenko or reinhard"
            ),
        ),
        (
            "colour: {normalise: vahadane}",
            "colour.normalise: vahadane is not allowed; give none, macenko or reinhard",
        ),
        (
            "cluster: {kind: address}",
            "cluster.address: null is not allowed; kind: address needs a value here",
        ),
        (
            "cluster: {address: host:1}",
            "cluster.address: host:1 is not allowed; leave it out, or set kind: address",
        ),
        ("demo: {width: 9}", "demo.slide: missing; give path"),
        (
            "7: x",
            (
                "7: unknown key; known keys: slides, reader, model, output, resolution, tissue, "
                "inference, colour, export, on_error, cluster, demo"
            ),
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    run_file: Path, text: str, problem: str
) -> None:
    assert problems(run_file, LEAST + text) == [f"x.yaml: {problem}"]


def test_all_problems_are_reported_at_once_one_line_each(run_file: Path) -> None:
    text = "slides: [1, 2]\noutput: {dtype: uint9, blok: 1}\ncluster: {workers: 0}"
    assert problems(run_file, text) == [
        "x.yaml: slides: [1, 2] is not allowed; give path or [path, ...]",
        "x.yaml: model: missing; give path or [path, ...]",
        "x.yaml: output.dtype: uint9 is not allowed; give uint8, float16 or float32",
        "x.yaml: output.blok: unknown key; did you mean block?",
        "x.yaml: cluster.workers: 0 is not allowed; give auto or integer >= 1",
    ]


def test_a_long_value_is_shortened(run_file: Path) -> None:
    (line,) = problems(run_file, f"slides: a\nmodel: {{{'m' * 1000}: 1}}")
    assert len(line) < 150


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty; a run file needs at least slides: and model:"),
        ("# nothing yet\n", "empty; a run file needs at least slides: and model:"),
        ("- a.svs\n", "not a mapping of keys; a run file needs at least slides: and model:"),
        ("slides: a\nmodel: [\n", "line 3: expected the node content, but found '<stream end>'"),
        ("slides: a\nmodel: \a\n", "line 2: a character YAML does not allow"),
        ("[1]: 2\n", "line 1: found unhashable key"),
        ("slides: a\nmodel: m\nslides: b\n", "line 3: slides is given twice, first in line 1"),
        ("demo: {seed: 1, seed: 1}\n", "line 1: seed is given twice, first in line 1"),
        (
            "model: m\nslides: *.svs\n",
            (
                "line 2: expected alphabetic or numeric character, but found '.'; "
                "quote text that starts with *"
            ),
        ),
        (
            "slides: !!python/object/apply:os.getcwd []",
            (
                "line 1: could not determine a constructor for the tag "
                "'tag:yaml.org,2002:python/object/apply:os.getcwd'"
            ),
        ),
    ],
)
def test_what_is_not_a_run_file_is_refused_in_one_line(
    run_file: Path, text: str, problem: str
) -> None:
    assert problems(run_file, text) == [f"x.yaml: {problem}"]


def test_a_key_may_override_what_it_merges_from_an_anchor(run_file: Path) -> None:
    text = "slides: a\nmodel: m\ntissue: &t {mpp: 4.0}\ndemo: {<<: *t, slide: d, mpp: 0.25}"
    loaded = load(run_file, text)
    assert loaded.demo is not None
    assert loaded.demo.mpp == 0.25


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("slides: é".encode("latin-1"))
    for path, problem in [
        (tmp_path / "nope.yaml", "No such file or directory; name a run file (YAML)"),
        (tmp_path, "Is a directory; name a run file (YAML)"),
        (latin, "not UTF-8 text; name a run file (YAML)"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value) == f"{path}: {problem}"


def test_a_byte_order_mark_is_not_part_of_the_first_key(run_file: Path) -> None:
    assert load(run_file, "\ufeff" + LEAST).model == "builtin:nuclei"


def test_an_override_replaces_one_value_and_keeps_its_neighbours(run_file: Path) -> None:
    text = LEAST + "tissue: {mpp: 4.0, method: none}"
    tissue = load(run_file, text, "tissue.mpp=16", "tissue.min_fraction=0.5").tissue
    assert (tissue.mpp, tissue.min_fraction, tissue.method) == (16, 0.5, "none")


def test_a_later_override_wins(run_file: Path) -> None:
    assert load(run_file, LEAST, "on_error=stop", "on_error=continue").on_error == "continue"


def test_a_mapping_override_merges_into_a_block(run_file: Path) -> None:
    text = LEAST + "tissue: {mpp: 4.0, method: none}"
    tissue = load(run_file, text, "tissue={method: density}").tissue
    assert (tissue.mpp, tissue.method) == (4, "density")


def test_a_mapping_override_replaces_a_scalar(run_file: Path) -> None:
    text = LEAST + "resolution: {mpp: model}"
    loaded = load(run_file, text, "resolution.mpp={level: 2}")
    assert loaded.resolution.mpp == config.LevelConfig(level=2)


@pytest.mark.parametrize("value", ["model", "0.5", "1", "{level: 0}"])
def test_the_resolution_is_the_models_a_number_or_a_level(run_file: Path, value: str) -> None:
    loaded = load(run_file, LEAST + f"resolution: {{mpp: {value}}}")
    again = load(run_file, dump_config(loaded))
    assert loaded.resolution == again.resolution
    assert type(loaded.resolution.mpp) in (str, float, config.LevelConfig)


def test_a_list_override_replaces_the_whole_list(run_file: Path) -> None:
    text = "slides: [a.svs, b.svs]\nmodel: m\nexport: [overview]"
    loaded = load(run_file, text, "export=[]", "slides=[/c.svs]")
    assert (loaded.export, loaded.slides) == ([], ["/c.svs"])


def test_an_override_can_remove_a_block(run_file: Path) -> None:
    assert load(run_file, LEAST + "demo: {slide: d.svs}", "demo=null").demo is None


def test_an_equals_sign_may_be_part_of_an_override_value(run_file: Path) -> None:
    assert load(run_file, LEAST, "model=https://h/m?a=b").model == "https://h/m?a=b"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("tissue", "override tissue: not of the form key.sub=value"),
        ("=1", "override =1: not of the form key.sub=value"),
        (
            "tissue.min_aera_um2=3",
            "override: tissue.min_aera_um2: unknown key; did you mean min_area_um2?",
        ),
        ("on_error=skip", "override: on_error: skip is not allowed; give continue or stop"),
        ("model.name=m", "override: model: {name: m} is not allowed; give path or [path, ...]"),
        ("demo={seed: 1, seed: 2}", None),
        (
            "slides=*.svs",
            (
                "override slides=*.svs: line 1: expected alphabetic or numeric character, "
                "but found '.'; quote text that starts with *"
            ),
        ),
    ],
)
def test_a_wrong_override_is_blamed_on_the_override(
    run_file: Path, override: str, problem: str | None
) -> None:
    twice = f"override {override}: line 1: seed is given twice, first in line 1"
    assert problems(run_file, LEAST, override) == [problem or twice]


def test_paths_in_the_file_are_beside_the_file(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(
        Path("configs/x.yaml"),
        "slides: [../slides/*.svs, one.svs]\nmodel: cards\noutput: {directory: ../results}\n"
        "tissue: {method: mask, mask: '../masks/{slide_id}.png'}\ndemo: {slide: ../demo.svs}",
    )
    assert loaded.slides == [f"{tmp_path}/slides/*.svs", f"{tmp_path}/configs/one.svs"]
    assert loaded.model == f"{tmp_path}/configs/cards"
    assert loaded.output.directory == f"{tmp_path}/results"
    assert loaded.tissue.mask == f"{tmp_path}/masks/{{slide_id}}.png"
    assert loaded.demo is not None
    assert loaded.demo.slide == f"{tmp_path}/demo.svs"


def test_paths_in_overrides_are_in_the_current_directory(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    loaded = load(
        run_file,
        LEAST,
        "slides=[b.svs, ../c.svs]",
        "model=m.yaml",
        "output={directory: r}",
        "tissue={method: mask}",
        "tissue.mask=masks/{slide_id}.png",
    )
    assert loaded.slides == [f"{here}/b.svs", f"{tmp_path}/c.svs"]
    assert loaded.model == f"{here}/m.yaml"
    assert loaded.output.directory == f"{here}/r"
    assert loaded.tissue.mask == f"{here}/masks/{{slide_id}}.png"


def test_the_default_results_folder_is_beside_the_file(run_file: Path) -> None:
    assert load(run_file, LEAST, "output.dtype=float32").output.directory == str(
        run_file.parent / "results"
    )


def test_a_tilde_is_the_home_folder(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    loaded = load(run_file, "slides: ~/a.svs\nmodel: m", "model=~/m.yaml")
    assert (loaded.slides, loaded.model) == ("/home/ada/a.svs", "/home/ada/m.yaml")


@pytest.mark.parametrize("name", ["s3://bucket/a/../b.svs", "https://h//x", "builtin:nuclei"])
def test_urls_and_builtins_are_left_alone(run_file: Path, name: str) -> None:
    loaded = load(run_file, f"slides: ['{name}']\nmodel: m", f"model={name}")
    assert (loaded.slides, loaded.model) == ([name], name)


def test_a_target_is_a_path_or_the_published_one(run_file: Path, tmp_path: Path) -> None:
    said = LEAST + "colour: {normalise: macenko, target: ../r.png}"
    assert load(run_file, LEAST).colour.target == "published"
    assert load(run_file, said).colour.target == f"{tmp_path}/r.png"
    assert load(run_file, said, "colour.target=published").colour.target == "published"


def test_a_config_cannot_be_changed(run_file: Path) -> None:
    loaded = load(run_file, LEAST + "demo: {slide: d.svs}")
    assert loaded.demo is not None
    blocks: list[BaseModel] = [loaded, loaded.output, loaded.resolution, loaded.demo]
    for block in blocks:
        name = next(iter(type(block).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(block, name, getattr(block, name))


def models() -> list[type[BaseModel]]:
    public = [value for value in vars(config).values() if isinstance(value, type)]
    return [one for one in public if issubclass(one, BaseModel) and one is not BaseModel]


def test_every_field_has_a_description() -> None:
    fields = [(m, name, field) for m in models() for name, field in m.model_fields.items()]
    assert len(fields) > 30
    assert [(m, name) for m, name, field in fields if not field.description] == []


def test_every_setting_has_one_row_with_its_default() -> None:
    rows = {row.key: row for row in describe_fields()}
    assert rows["slides"].default == "required"
    assert rows["output.block"].type == "auto or integer >= 64"
    assert rows["resolution.mpp"].default == "model"
    assert rows["resolution.mpp.level"].default == "0"
    assert rows["demo"].default == "null"
    assert rows["demo.width"].default == "5000"
    assert "tissue" not in rows
    assert len(rows) == len(describe_fields())


def test_a_part_of_the_run_file_can_be_described_alone() -> None:
    assert [row.key for row in describe_fields(config.LevelConfig)] == ["level"]


def test_the_table_has_one_row_of_four_cells_for_each_setting() -> None:
    lines = config_table().splitlines()
    assert len(lines) == 2 + len(describe_fields())
    assert {line.count("|") for line in lines} == {5}


@pytest.mark.skipif(not README.exists(), reason="README.md is not written yet")
def test_the_readme_documents_every_setting() -> None:
    text = README.read_text(encoding="utf-8")
    assert [row.key for row in describe_fields() if f"`{row.key}`" not in text] == []
    table = text.partition("<!-- config table -->")[2].partition("<!-- /config table -->")[0]
    assert table.strip() == config_table()


def test_importing_the_config_does_not_import_dask() -> None:
    code = "import sys, pipeline.config; sys.exit('dask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
