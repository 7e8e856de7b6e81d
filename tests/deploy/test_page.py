"""examples/deploy/web: the page that recognizes digits, in Chromium: drawn, picked, and by keyboard.

`make web-test` installs what this needs and runs it; the default tests leave it out.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAM, Page

import specc
from specc.unpack import unpack

pytestmark = [pytest.mark.cross, pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")]
EXAMPLES = Path(__file__).parents[2] / "examples"
READY = "document.documentElement.dataset.ready === 'true'"
SHARES = "[...document.querySelectorAll('#shares li')].map((row) => Number(row.dataset.share))"
DIGIT = "document.getElementById('digit').textContent"
TIME = "document.getElementById('time').textContent"
TURN = [math.tau * step / 16 for step in range(17)]
DRAWN = {
    0: [[(0.5 + 0.2 * math.sin(turn), 0.5 - 0.3 * math.cos(turn)) for turn in TURN]],
    2: [[(0.3, 0.3), (0.4, 0.2), (0.6, 0.2), (0.65, 0.35), (0.5, 0.55), (0.3, 0.8), (0.7, 0.8)]],
    3: [[(0.3, 0.2), (0.5, 0.18), (0.65, 0.28), (0.45, 0.48), (0.65, 0.6), (0.65, 0.7), (0.5, 0.82), (0.3, 0.78)]],
    4: [[(0.45, 0.2), (0.3, 0.55), (0.7, 0.55)], [(0.6, 0.4), (0.6, 0.8)]],
    7: [[(0.3, 0.2), (0.7, 0.2), (0.45, 0.8)]],
}
"""Strokes, in shares of the sheet."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the README says to make."""
    folder = tmp_path_factory.mktemp("site") / "web"
    shutil.copytree(EXAMPLES / "deploy" / "web", folder)
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target="wasm32", weights=trained.checkpoint)
    unpack(artifact.contents, folder / "net")
    shutil.copy(trained.folder / "samples.json", folder)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *words: Quiet(*words, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Page]:
    with served(site) as address, Page() as tab:
        tab.open(address)
        tab.wait(READY)
        yield tab
        assert not tab.problems


def test_the_samples_get_what_pytorch_gives_them(page: Page, trained) -> None:
    import torch

    model = specc.to_torch(specc.load(EXAMPLES / "digits.specc"))
    model.load_state_dict({key: torch.from_numpy(array) for key, array in trained.weights.items()})
    model.eval()
    for digit, image in enumerate(trained.samples):
        page.key(str(digit), str(digit))
        with torch.inference_mode():
            expected = model(torch.from_numpy(image)).softmax(1)[0].numpy()
        assert np.abs(np.array(page.ask(SHARES)) - expected).max() < 1e-5
        assert page.ask(DIGIT) == str(expected.argmax())
        assert page.ask("document.querySelector('[aria-pressed=true]').ariaLabel") == f"sample of a {digit}"


def test_what_is_drawn_is_recognized(page: Page) -> None:
    x, y, width, height = page.ask(
        "(({x, y, width, height}) => [x, y, width, height])(document.getElementById('ink').getBoundingClientRect())"
    )
    recognized = []
    for digit, strokes in DRAWN.items():
        page.key("Escape")
        assert page.ask(DIGIT) == ""
        for stroke in strokes:
            places = [(x + right * width, y + down * height) for right, down in stroke]
            page.mouse("mousePressed", *places[0])
            for place in places:
                page.mouse("mouseMoved", *place)
            page.mouse("mouseReleased", *places[-1])
        shares = page.ask(SHARES)
        assert abs(sum(shares) - 1) < 1e-6
        recognized.append(int(page.ask(DIGIT)) == digit == int(np.argmax(shares)))
    assert sum(recognized) >= 4, recognized


def test_a_time_is_shown(page: Page) -> None:
    page.key("5", "5")
    page.wait(f"{TIME} !== ''")
    value, unit = page.ask(TIME).split()
    assert 0 < float(value) * {"µs": 1e-6, "ms": 1e-3}[unit] < 0.1


def test_the_keyboard_draws(page: Page) -> None:
    page.key("Escape")
    page.ask("document.getElementById('ink').focus()")
    page.key("ArrowDown")
    assert page.ask(DIGIT) == ""  # the pen is up
    page.key(" ", " ")
    for _ in range(10):
        page.key("ArrowDown")
    assert page.ask(DIGIT) != ""
    middle = "document.getElementById('ink').getContext('2d').getImageData(160, 0, 1, 320).data"
    inked = f"[...{middle}].filter(Boolean).length"
    assert page.ask(inked) > 0
    page.key("Escape")
    assert page.ask(inked) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(page: Page, scheme: str) -> None:
    """The contrast of texts that WCAG 2 asks for: 4.5 to 1."""
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    names = ("--page", "--card", "--text", "--quiet")
    style = "getComputedStyle(document.documentElement)"
    found = {name: page.ask(f"{style}.getPropertyValue('{name}').trim()") for name in names}

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for text in ("--text", "--quiet"):
        for ground in ("--page", "--card"):
            low, high = sorted((luminance(found[text]), luminance(found[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5
    assert (luminance(found["--page"]) > 0.5) == (scheme == "light")
    page.call("Emulation.setEmulatedMedia", features=[])


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert page.ask("document.documentElement.scrollWidth") <= 360
    page.call("Emulation.setDeviceMetricsOverride", width=1000, height=800, deviceScaleFactor=1, mobile=False)


def test_a_page_without_its_network_says_so(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "deploy" / "web", tmp_path / "web")
    with served(tmp_path / "web") as address, Page() as tab:
        tab.open(address)
        tab.wait("!document.getElementById('problem').hidden")
        assert "net/network.wasm: 404" in tab.ask("document.getElementById('problem').textContent")
