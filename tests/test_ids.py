"""What a slide's results are called: whatever its name is, a file that stays where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.files.ids import safe_id, with_digest
from pipeline.results import ENDING


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
@example("..")
@example("../../etc/passwd")
@example("/etc/passwd")
@example("~root")
@example("a\nb")
@example("a\0b")
@example("C:\\x")
@example("...hidden")
@example("-rf")
@example("\uff0e\uff0e\uff0fx")  # dots and a slash of full width
@example("con.")
@example("a" * 300)
@example("\udce9")  # a byte that is no UTF-8, as file names may have
def test_no_name_leaves_the_results_folder(name: str) -> None:
    slide_id = safe_id(name)
    store = Path("/results") / f"{slide_id}{ENDING}"
    assert slide_id
    assert store.parent == Path("/results")
    assert store.name == f"{slide_id}{ENDING}"
    assert slide_id.isascii()
    assert slide_id[0] not in ".-_"
    assert slide_id[-1] not in "._"
    assert slide_id.replace("-", "").replace(".", "").replace("_", "").isalnum()
    assert len(slide_id) <= 128
    assert safe_id(slide_id) == slide_id
    assert safe_id(with_digest(slide_id, name)) == with_digest(slide_id, name)


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [
        ("TCGA-CR-7395.01A", "TCGA-CR-7395.01A"),
        ("Müller, Zoë #3", "Muller_Zoe_3"),
        ("e\u0301", "e"),
        ("\u00e9", "e"),
        ("H&E ½ ℃", "H_E_1_2_C"),
        ("nul", "slide-nul"),
        ("CON", "slide-CON"),
        ("Lpt1.old", "slide-Lpt1.old"),
        ("console", "console"),
        ("com10", "com10"),
        ("a. .", "a"),
    ],
)
def test_a_name_stays_readable(name: str, slide_id: str) -> None:
    assert safe_id(name) == slide_id


def test_names_without_a_letter_we_can_write_are_told_apart() -> None:
    found = {safe_id(name) for name in ("日本", "中国", "", "..", "\udce9")}
    assert len(found) == 5
    assert all(slide_id.startswith("slide-") for slide_id in found)


def test_long_names_that_differ_at_their_end_are_told_apart() -> None:
    one, other = (safe_id("a" * 200 + end) for end in "xy")
    assert one != other
    assert one[:119] == other[:119] == "a" * 119
