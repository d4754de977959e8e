"""The viewer in a real browser: what is drawn, and where; links, sliders, keys, touch."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pipeline
from pipeline.demo import read_truth
from pipeline.store import withdraw
from pipeline.view import catalogue as catalogues
from pipeline.view.catalogue import catalogue_of
from pipeline.view.page import page_file, widget_module
from pipeline.view.widget import replied
from tests.viewing import Serving, browser, offline, run_nuclei, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Pixels = NDArray[np.uint8]
READY = "main[data-state=ready]"
ORANGE = (0xE6, 0x9F, 0x00)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def results(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_nuclei(demo_slide, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def server(chromium: Browser, results: Path) -> Iterator[Serving]:
    with serving(catalogue_of(results)) as started:
        yield started


@pytest.fixture
def page(chromium: Browser, server: Serving) -> Iterator[Page]:
    """A new window, 1000 x 700 pixels, in which nothing is opened yet."""
    with offline(chromium, server.url.split("#", maxsplit=1)[0]) as window:
        yield window.context.new_page()


def open_at(page: Page, server: Serving, link: str = "") -> None:
    page.goto(server.url + link)
    page.wait_for_selector(READY)


def settled(page: Page) -> None:
    """Wait until what was asked for is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_selector(READY)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def until(page: Page, true: str) -> None:
    """Wait until JavaScript is true; Playwright's own way needs ``eval``, which CSP forbids."""
    for _ in range(200):
        if page.evaluate(true):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"not within 20 s: {true}")


def picture(page: Page) -> Pixels:
    """Give what is on the screen without the panels: ``(y, x, 3)``."""
    page.evaluate(
        "document.querySelectorAll('.wsi-viewer > :not(.wsi-canvas)')"
        ".forEach((panel) => { panel.style.visibility = 'hidden'; })"
    )
    settled(page)
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


def layers(*shown: str) -> str:
    """Give the part of a link that says which layers are shown, and how; others are hidden."""
    keys = ("slide", "tissue", "scores-0-0", "objects-1", "coverage")
    # Key, visible, opacity, map, threshold, brightest, hidden, exact, density.
    return "&l=" + ";".join(f"{key},{int(key in shown)},1,viridis,0,1,,1,0" for key in keys)


def test_the_slide_is_drawn_pixel_by_pixel_where_it_is(
    page: Page, server: Serving, demo_slide: Path
) -> None:
    open_at(page, server, "&s=demo&x=700&y=600&z=0" + layers("slide"))
    expected = np.asarray(pipeline.open_slide(demo_slide).levels[0][250:950, 200:1200])
    np.testing.assert_array_equal(picture(page), expected)


def test_scores_and_outlines_lie_on_the_nuclei(
    page: Page, server: Serving, demo_slide: Path
) -> None:
    truth = read_truth(demo_slide)
    x0, y0 = truth.nuclei[np.argsort(np.abs(truth.nuclei - (1050, 420)).sum(axis=1))[0]].astype(int)
    link = f"&s=demo&x={x0}&y={y0}&z=1"
    open_at(page, server, link + layers("scores-0-0"))
    scores = picture(page)
    x, y = ((truth.nuclei - (x0, y0)) * 2 + (500, 350)).T
    inside = (x > 10) & (x < 990) & (y > 10) & (y < 690)
    assert inside.sum() > 20
    at = (y[inside].astype(int), x[inside].astype(int))
    ground = np.array([0xF4, 0xF4, 0xF4])
    coloured = np.abs(scores.astype(int) - ground).sum(axis=2) > 60
    assert coloured[at].mean() > 0.9
    far = np.ones(coloured.shape, bool)
    for column, row in zip(x, y, strict=True):
        if -60 < column < 1060 and -60 < row < 760:
            top, left = max(int(row) - 34, 0), max(int(column) - 34, 0)
            far[top : int(row) + 34, left : int(column) + 34] = False
    assert far.mean() > 0.02
    assert coloured[far].mean() < 0.01
    open_at(page, server, link + layers("objects-1"))
    page.reload()
    page.wait_for_selector(READY)
    outlined = np.abs(picture(page).astype(int) - ORANGE).sum(axis=2) < 90
    assert not outlined[far].any()
    reach = 1.7 * 2 * truth.radii[inside]
    ringed = [
        outlined[max(int(r - d), 0) : int(r + d), max(int(c - d), 0) : int(c + d)].any()
        for c, r, d in zip(x[inside], y[inside], reach, strict=True)
    ]
    assert np.mean(ringed) > 0.9


def test_the_scale_bar_is_as_long_as_it_says(page: Page, server: Serving) -> None:
    open_at(page, server)
    for zoom in (-1.5, 0, 1.3, 4):
        page.evaluate(f"viewer.camera.place(700, 600, 2 ** {zoom}); viewer.redraw()")
        settled(page)
        box = page.locator(".wsi-scale").bounding_box()
        said = page.inner_text(".wsi-scale")
        assert box is not None
        number, unit = said.split()
        um = float(number) * {"µm": 1, "mm": 1000}[unit]
        assert box["width"] / 2**zoom * 0.5 == pytest.approx(um, rel=0.01)
        assert 40 < box["width"] <= 151


def slide(page: Page, key: str, name: str, value: float) -> None:
    """Move a slider of a layer."""
    page.locator(f"[data-layer='{key}'] [data-control='{name}']").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )


def coloured(drawn: Pixels) -> int:
    """Give how many pixels are not the empty slide's."""
    return int((np.abs(drawn.astype(int) - 0xF4).sum(axis=2) > 30).sum())


def test_sliders_and_colour_maps_change_what_is_drawn_at_once(page: Page, server: Serving) -> None:
    open_at(page, server, "&s=demo&x=950&y=420&z=0" + layers("scores-0-0"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    before = picture(page)
    assert coloured(before) > 1000
    slide(page, "scores-0-0", "threshold", 0.6)
    thresholded = picture(page)
    assert 0 < coloured(thresholded) < 0.8 * coloured(before)
    page.locator("[data-layer='scores-0-0'] select").evaluate(
        "(choice) => { choice.value = 'magma'; choice.dispatchEvent(new Event('change')); }"
    )
    assert (picture(page) != thresholded).any()
    slide(page, "scores-0-0", "opacity", 0)
    assert coloured(picture(page)) == 0
    assert not [url for url in asked if "/tile/" in url]


def test_a_link_restores_what_was_seen_and_back_goes_back(page: Page, server: Serving) -> None:
    open_at(page, server, "&s=demo&x=300&y=300&z=0")
    page.evaluate("viewer.camera.place(1050, 420, 2 ** 0.5); viewer.moved()")
    slide(page, "scores-0-0", "threshold", 0.5)
    slide(page, "slide", "opacity", 0.4)
    until(page, "location.hash.includes('x=1050.0') && location.hash.includes('slide,1,0.4,')")
    link = page.url
    seen = picture(page)
    other = page.context.new_page()
    other.goto(link)
    other.wait_for_selector(READY)
    np.testing.assert_array_equal(picture(other), seen)
    page.go_back()
    until(page, "viewer.camera.x === 300 && viewer.camera.scale === 1")
    page.go_forward()
    until(page, "viewer.camera.x === 1050 && viewer.camera.scale === 2 ** 0.5")


def test_keys_move_and_zoom(page: Page, server: Serving) -> None:
    open_at(page, server, "&s=demo&x=700&y=600&z=0")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[viewer.camera.x, viewer.camera.y]") == [790, 600]
    page.keyboard.press("+")
    assert page.evaluate("viewer.camera.scale") == pytest.approx(1.6)
    page.keyboard.press("-")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("viewer.camera.y") == pytest.approx(510)
    page.keyboard.press("h")
    assert not page.locator("[data-layer='scores-0-0'] [type=checkbox]").is_checked()
    page.keyboard.press("0")
    assert page.evaluate("viewer.camera.scale") < 0.6


def test_the_wheel_zooms_at_the_pointer_and_dragging_moves(page: Page, server: Serving) -> None:
    open_at(page, server, "&s=demo&x=700&y=600&z=0")
    page.mouse.move(300, 200)
    before = page.evaluate("viewer.camera.toSlide(300, 200)")
    page.mouse.wheel(0, -300)
    until(page, "viewer.camera.scale > 1.5")
    assert page.evaluate("viewer.camera.toSlide(300, 200)") == pytest.approx(before)
    page.mouse.down()
    page.mouse.move(360, 260)
    page.mouse.up()
    assert page.evaluate("viewer.camera.toSlide(360, 260)") == pytest.approx(before)


def test_two_fingers_zoom(page: Page, server: Serving) -> None:
    open_at(page, server, "&s=demo&x=700&y=600&z=0")
    page.evaluate(
        """() => {
            const send = (type, id, x, y) => viewer.canvas.dispatchEvent(new PointerEvent(type,
                { pointerId: id, pointerType: "touch", clientX: x, clientY: y, bubbles: true }));
            viewer.canvas.setPointerCapture = () => {};  // of fingers that are none
            send("pointerdown", 11, 400, 350); send("pointerdown", 12, 500, 350);
            send("pointermove", 11, 350, 350); send("pointermove", 12, 550, 350);
            send("pointerup", 11, 350, 350); send("pointerup", 12, 550, 350);
        }"""
    )
    assert page.evaluate("viewer.camera.scale") == pytest.approx(2)


def test_the_readout_says_place_and_score(page: Page, server: Serving, results: Path) -> None:
    stored = pipeline.open_results(results)["demo"]
    scores = np.asarray(stored.levels[0][0])
    y, x = (int(at) for at in np.argwhere(scores > 240)[0])
    open_at(page, server, f"&s=demo&x={x}.5&y={y}.5&z=2" + layers("scores-0-0", "coverage"))
    page.mouse.move(500, 350)
    said = page.inner_text(".wsi-readout")
    assert f"x {x}, y {y} px" in said
    um = re.search(r"([\d.]+), ([\d.]+) µm", said)
    assert um is not None
    assert [float(at) for at in um.groups()] == pytest.approx([x / 2, y / 2], abs=0.31)
    score = re.search(r"nucleus ([\d.]+)", said)
    assert score is not None
    assert float(score[1]) == pytest.approx(scores[y, x] / 255, abs=0.001)
    assert "analysed" in said


def test_blocks_appear_on_the_page_while_a_run_goes_on(
    chromium: Browser, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogues, "_LOOK_S", 0.0)
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    store = folder / "demo.zarr"
    withdraw(str(store))
    for shard in store.glob("[0-9]/c/0/*/*"):
        shard.unlink()
    with (
        serving(catalogue_of(folder)) as server,
        offline(chromium, server.url.split("#", maxsplit=1)[0]) as window,
    ):
        page = window.context.new_page()
        open_at(page, server, "&s=demo&x=950&y=420&z=0" + layers("scores-0-0"))
        assert "unfinished" in page.inner_text(".wsi-panel")
        assert coloured(picture(page)) == 0
        shutil.copytree(results / "demo.zarr/0/c", store / "0/c", dirs_exist_ok=True)
        for _ in range(60):
            if coloured(picture(page)) > 1000:
                return
            page.wait_for_timeout(300)
        pytest.fail("blocks that were written are not on the page after 20 s")


def test_without_its_token_the_page_shows_nothing(chromium: Browser, server: Serving) -> None:
    origin = server.url.split("#", maxsplit=1)[0]
    context = chromium.new_context()
    page = context.new_page()
    page.goto(origin)
    until(page, "document.querySelector('main').textContent.includes('token')")
    context.close()


def test_on_a_phone_the_picture_comes_first(chromium: Browser, server: Serving) -> None:
    origin = server.url.split("#", maxsplit=1)[0]
    with offline(chromium, origin, 390, 844) as window:
        page = window.context.new_page()
        open_at(page, server)
        assert not page.locator(".wsi-panel").is_visible()
        page.click("text=Layers")
        panel, tools = (page.locator(each).bounding_box() for each in (".wsi-panel", ".wsi-tools"))
        assert panel is not None
        assert tools is not None
        assert panel["x"] >= 0
        assert panel["x"] + panel["width"] <= 390
        assert panel["y"] + panel["height"] <= tools["y"]
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_notebooks_module_draws_over_messages(
    chromium: Browser, server: Serving, results: Path, demo_slide: Path
) -> None:
    catalogue = catalogue_of(results)
    origin = server.url.split("#", maxsplit=1)[0]

    def told(message: dict[str, Any]) -> list[Any]:
        reply, buffers = replied(catalogue, message)
        return [reply, [base64.b64encode(each).decode() for each in buffers]]

    with offline(chromium, origin) as window:
        page = window.context.new_page()
        page.expose_function("told", told)
        page.set_content(f"<style>{page_file('viewer.css')}</style><div id=cell></div>")
        page.evaluate(
            """async (text) => {
                const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
                const { default: widget } = await import(url);
                const heard = [];
                const model = {
                    get: () => 500, on: (_, act) => heard.push(act), off: () => heard.pop(),
                    send: async (message) => {
                        const [reply, buffers] = await window.told(message);
                        const views = buffers.map((text) => new DataView(
                            Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer));
                        for (const act of heard) act(reply, views);
                    },
                };
                window.close = await widget.render({ model, el: document.querySelector("#cell") });
            }""",
            widget_module(),
        )
        page.wait_for_selector(".wsi-viewer[data-state=ready]")
        cell = page.locator(".wsi-canvas")
        drawn = np.asarray(Image.open(io.BytesIO(cell.screenshot())).convert("RGB")).astype(int)
        assert drawn.shape[0] == 500
        pink = (drawn[..., 0] - drawn[..., 1] > 40).mean()
        assert pink > 0.05
        page.evaluate("window.close()")
