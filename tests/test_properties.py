"""What a slide's properties mean, whatever they say."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.readers import Mpp
from pipeline.readers import properties as said

NAMES = (
    *("openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"),
    *(f"openslide.bounds-{side}" for side in ("x", "y", "width", "height")),
    *("openslide.background-color", "openslide.level[0].tile-width"),
    "openslide.level[0].tile-height",
)
VALUES = st.one_of(
    st.text("-+.eEx_ 0189AFfn\n\u0663", max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "nan", "inf", "-inf", "1e400", "0x10", "1_0", "9" * 5000, "+1+1+1"]),
)


def bounds_of(y: object, x: object, height: object, width: object) -> Box | None:
    values = {"y": y, "x": x, "height": height, "width": width}
    properties = {f"openslide.bounds-{name}": str(value) for name, value in values.items()}
    return said.bounds(properties)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
@example(dict.fromkeys(NAMES, "nan"))
@example(dict.fromkeys(NAMES, "-1FFFF"))
@example(dict.fromkeys(NAMES, "0"))
def test_whatever_properties_say_nothing_is_raised_and_values_are_sane(
    properties: dict[str, str],
) -> None:
    mpp = said.mpp(properties)
    assert mpp is None or (0 < mpp.y < math.inf and 0 < mpp.x < math.inf)
    power = said.objective(properties)
    assert power is None or 0 < power < math.inf
    bounds = said.bounds(properties)
    assert bounds is None or isinstance(bounds.clipped((100, 200)), Box)
    assert all(0 <= value <= 255 for value in said.background(properties))
    rows, columns = said.tile(properties, 0, (100, 200))
    assert 0 < rows <= 100
    assert 0 < columns <= 200


def test_bounds_are_there_only_when_all_four_are_whole_numbers() -> None:
    assert bounds_of(3, 4, 50, 60) == Box(3, 4, 50, 60)
    assert bounds_of(3, 4, 50, "6x") is None
    assert bounds_of(3, "", 50, 60) is None
    assert said.bounds({"openslide.bounds-x": "1"}) is None


def test_the_background_is_the_slides_own_and_else_white() -> None:
    assert said.background({"openslide.background-color": "0C80FF"}) == (12, 128, 255)
    for value in ("", "red", "GGGGGG", "+1+1+1", "-1-1-1", "0C80FF0", " C80FF"):
        assert said.background({"openslide.background-color": value}) == (255, 255, 255)
    assert said.background({}) == (255, 255, 255)


def test_no_scale_is_made_up_and_none_that_is_said_is_doubted() -> None:
    y, x = "openslide.mpp-y", "openslide.mpp-x"
    assert said.mpp({y: "0.5", x: "0.25"}) == Mpp(0.5, 0.25, "header")
    assert said.mpp({y: "896", x: "0.005"}) == Mpp(896.0, 0.005, "header")
    for only in ({x: "0.5"}, {y: "0", x: "0.5"}, {y: "nan", x: "0.5"}, {y: "?", x: "0.5"}):
        assert said.mpp(only) is None
    assert said.mpp({y: "-0.5", x: "-0.5"}) is None
    assert said.mpp({y: "inf", x: "inf"}) is None


def test_an_objective_is_a_positive_number() -> None:
    assert said.objective({"openslide.objective-power": "40"}) == 40
    for value in ("0", "-20", "40x", "nan", "inf", ""):
        assert said.objective({"openslide.objective-power": value}) is None


def test_tiles_are_those_of_the_file_cut_to_the_level() -> None:
    names = ("openslide.level[1].tile-height", "openslide.level[1].tile-width")
    assert said.tile(dict(zip(names, ("240", "512"), strict=True)), 1, (1000, 300)) == (240, 300)
    for nonsense in ("", "0", "-4", "1.5", "many"):
        assert said.tile(dict.fromkeys(names, nonsense), 1, (1000, 100)) == (256, 100)
