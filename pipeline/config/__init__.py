"""What a run file may say: one frozen value, every field with its meaning and its bounds.

A field is documented once, in its ``description``: the README's table is made from it. What an
error message says is allowed comes from the field's type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.config.cluster import ClusterConfig, DriverConfig
from pipeline.config.values import (
    Auto,
    Block,
    Count,
    LocalPath,
    Memory,
    Mpp,
    Text,
    needed_for,
    only_for,
)

if TYPE_CHECKING:
    from pydantic import ValidationInfo

__all__ = [
    "ClusterConfig",
    "DriverConfig",
    "LevelConfig",
    "LocalPath",
    "RunConfig",
    "TissueConfig",
]


PUBLISHED = "published"


def _check_target(value: str, info: ValidationInfo) -> str:
    if value != PUBLISHED and info.data.get("normalise") == "none":
        raise ValueError("leave it out, or set normalise: macenko or reinhard")
    return value


def _flagged(excluded: list[str], info: ValidationInfo) -> list[str]:
    missing = [name for name in excluded if name not in info.data.get("quality", excluded)]
    if missing:
        raise ValueError(f"add {' and '.join(missing)} to quality, so that it is looked for")
    return excluded


class OutputConfig(Block):
    """Where results go and how they are stored."""

    directory: Annotated[Text, LocalPath()] = Field(
        "results", description="Folder of the results, or where in a bucket: s3:// or gs://."
    )
    dtype: Literal["uint8", "float16", "float32"] = Field(
        "uint8", description="How scores are stored; uint8 holds 0 to 1 as 0 to 255."
    )
    block: Auto | Annotated[int, Field(ge=64)] = Field(
        "auto", description="Side of a block, the unit of work, in pixels of what the model sees."
    )
    chunk: Auto | Count = Field("auto", description="Side of the zarr chunks inside a block.")


class LevelConfig(Block):
    """A stored pyramid level, chosen by its number."""

    level: int = Field(
        0, ge=0, description="Pyramid level that the model sees as it is stored; 0 is the finest."
    )


class ResolutionConfig(Block):
    """The resolution that the model sees."""

    mpp: Literal["model"] | Mpp | LevelConfig = Field(
        "model", description="Micrometres per pixel that the model sees; model: what its card says."
    )
    missing: Literal["error", "assume"] = Field(
        "error",
        description="What to do with a slide whose micrometres per pixel are missing or cannot be.",
    )
    assume_mpp: Annotated[Mpp | None, needed_for("missing", "assume")] = Field(
        None, description="Micrometres per level-0 pixel of such a slide, for `missing: assume`."
    )


class TissueConfig(Block):
    """Which parts of a slide are analysed."""

    method: Literal["otsu", "hsv", "density", "entropy", "mask", "model", "none"] = Field(
        "otsu", description="How tissue is found; none analyses everything."
    )
    mask: Annotated[
        Text | None, LocalPath(), needed_for("method", "mask"), only_for("method", "mask")
    ] = Field(
        None,
        description="Image, GeoJSON or OME-Zarr for `method: mask`; may contain `{slide_id}`.",
    )
    model: Annotated[
        Text | None, LocalPath(), needed_for("method", "model"), only_for("method", "model")
    ] = Field(None, description="Model card of a tissue detector, for `method: model`.")
    threshold: float = Field(
        0.5, description="Score above which a pixel is tissue, for `method: model`."
    )
    min_fraction: float = Field(
        0.0, ge=0, le=1, description="Patches with a smaller share of tissue are not predicted."
    )
    min_area_um2: float = Field(
        10000.0, ge=0, description="Smaller pieces of tissue are ignored (square micrometres)."
    )
    min_hole_um2: float = Field(
        5000.0, ge=0, description="Smaller holes in tissue are filled (square micrometres)."
    )
    mpp: Mpp = Field(8.0, description="Resolution of the tissue mask (micrometres per pixel).")
    quality: list[Literal["pen", "blur"]] = Field(
        [], description="What spoils a slide and is flagged in `labels/quality`."
    )
    exclude: Annotated[list[Literal["pen", "blur"]], AfterValidator(_flagged)] = Field(
        [], description="What of `quality` is not analysed."
    )


class ColourConfig(Block):
    """What is done to a slide's colours before the model sees them."""

    icc: Literal["ignore", "apply"] = Field(
        "ignore", description="apply: by the slide's own ICC profile, if it has one, to sRGB."
    )
    normalise: Literal["none", "macenko", "reinhard"] = Field(
        "none", description="How H&E is made to look as another laboratory's; after `icc`."
    )
    target: Annotated[Text, LocalPath((PUBLISHED,)), AfterValidator(_check_target)] = Field(
        PUBLISHED,
        description="Whose: an image, a slide, or `published`, the method's reference.",
    )


class InferenceConfig(Block):
    """How the model is run."""

    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "migraphx", "coreml", "directml"] = (
        Field(
            "cpu", description="What runs the model; what is asked for is what runs, or an error."
        )
    )
    gpu_memory: Memory = Field(
        "auto", description="Most memory of a GPU for the model, such as `8 GiB`; for `cuda`."
    )
    tta: Literal["none", "flips", "rotations", "all"] = Field(
        "none",
        description="Test-time augmentation: the mean over 4 flips, 4 quarter turns, or all 8.",
    )


class DemoConfig(Block):
    """A synthetic slide, written first if it is not there."""

    slide: Annotated[Text, LocalPath()] = Field(description="File of the synthetic slide.")
    width: Count = Field(5000, description="Its width in pixels.")
    height: Count = Field(4000, description="Its height in pixels.")
    mpp: Mpp = Field(0.5, description="Its micrometres per pixel.")
    seed: int = Field(0, ge=0, lt=2**64, description="Another seed draws another slide.")


class RunConfig(Block):
    """Everything a run is told; made by `load_config`."""

    slides: Annotated[Text | Annotated[list[Text], Field(min_length=1)], LocalPath()] = Field(
        description="The slides: file, URL, glob, folder, manifest (CSV, Parquet), or a list."
    )
    reader: Literal["auto", "openslide", "tiff", "zarr", "dicom"] = Field(
        "auto", description="How slides are read; auto is the fastest way that is exact on each."
    )
    model: Annotated[Text | Annotated[list[Text], Field(min_length=1)], LocalPath()] = Field(
        description="The model: its card, the folder of the card, or `builtin:NAME`; several "
        "are an ensemble, whose mean counts."
    )
    output: OutputConfig = Field(OutputConfig(), description="How results are stored.")
    resolution: ResolutionConfig = Field(ResolutionConfig(), description="What the model sees.")
    tissue: TissueConfig = Field(TissueConfig(), description="Which parts are analysed.")
    inference: InferenceConfig = Field(InferenceConfig(), description="How the model is run.")
    colour: ColourConfig = Field(ColourConfig(), description="What is done to colours.")
    # The names of `pipeline.export.EXPORTS`, and of `OF_RUNS` there.
    export: list[
        Literal[
            "overview",
            "geojson",
            "geojson.gz",
            "geojson.zip",
            "geojsonl",
            "csv",
            "parquet",
            "hdf5",
            "stamp",
            "anndata",
            "ome-tiff",
            "spatialdata",
            "report",
        ]
    ] = Field(
        [],
        description="What is made of stored results: of each slide, as `wsi-pipeline export` "
        "makes it, and report, a page of the whole run.",
    )
    on_error: Literal["continue", "stop"] = Field(
        "continue", description="After a slide that failed: go on with the others, or stop."
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="Where the work is done.")
    demo: DemoConfig | None = Field(
        None, description="A synthetic slide, written first if it is not there."
    )
