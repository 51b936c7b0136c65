"""The demo of a trained run in a real browser: a photo, a bad file, a new product, an absent data set."""

import base64
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from rp2k_lab import PROJECT

pytestmark = pytest.mark.soak

COLORS = {
    "red": (200, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 200),
    "white": (230, 230, 230),
    "dark": (40, 40, 40),
    "<i>yellow</i>": (220, 210, 30),
}
NEW, MAGENTA = "<img src=x onerror=alert(1)> ../\"'伊利", (210, 20, 200)
SECONDS = 300  # of a compilation on a busy machine


def photo(file: Path, color, seed: int) -> Path:
    """Write a noisy photo of one color."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal(color, 25, (40, 30, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six products of one color each, and photos that are none of them."""
    folder = tmp_path_factory.mktemp("photos")
    for number, (name, color) in enumerate(COLORS.items()):
        for i in range(20):
            photo(folder / "train" / name.replace("/", "∕") / f"{i}.png", color, 100 * number + i)
    for i in range(6):
        photo(folder / "new" / f"{i}.png", MAGENTA, 1000 + i)
    return folder


@pytest.fixture(scope="module")
def trained(start, photos):
    """A run of seconds."""
    data = ("dataset=folder", f"dataset.root={photos / 'train'}", "size=32", "epochs=6", "batch_size=16")
    command = start(*data, "model.width_multiplier=0.25", "model.depth_multiplier=0.5", "optimizer.lr=0.02")
    code, _, err = command.wait()
    assert (code, err) == (0, "")
    return command


@contextmanager
def demo(trained, home: Path):
    """The address of the served run; Ctrl-C ends the process without an error."""
    command = [sys.executable, "-m", "rp2k_lab.demo", "last", "--port", "0", "--uri", trained.store.uri]
    environment = {**os.environ, "RP2K_LAB_HOME": str(home)}  # the folder of the extensions' runs
    with (home / "stderr").open("w+") as errors:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=-1, stderr=errors, text=True)
        try:
            addresses = (re.search(r"demo page +(http://127\.0\.0\.1:\d+)", line) for line in process.stdout)
            address = next(filter(None, addresses), None)
            assert address, (home / "stderr").read_text()
            yield address[1]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.stdout.close()
        assert (home / "stderr").read_text().strip() == "stopped"


@pytest.fixture
def opened(browser):
    """opened(address): the page in a narrow dark window, with its messages and requests to others."""
    contexts = []

    def open_page(address):
        context = browser.new_context(viewport={"width": 420, "height": 900}, color_scheme="dark")
        contexts.append(context)
        page = context.new_page()
        page.messages = []
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("dialog", lambda dialog: (page.messages.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda line: page.messages.append(line.text))
        context.on(
            "request",
            lambda request: request.url.startswith((address, "data:", "blob:")) or page.messages.append(request.url),
        )
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("products")
        return page

    yield open_page
    for context in contexts:
        context.close()


def drop(page, zone: str, *files: Path):
    """Drop files from outside of the browser."""
    content = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, text] of files)
                transfer.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event(zone, "drop", {"dataTransfer": transfer})


def is_drawn(page, image: str) -> bool:
    return page.locator(image).first.evaluate("image => image.complete && image.naturalWidth > 20")


def test_a_photo_a_bad_file_and_a_new_product(trained, photos, opened, tmp_path):
    with demo(trained, tmp_path) as address:
        page = opened(address)
        drop(page, "#drop", photo(tmp_path / "red.png", COLORS["red"], 7))
        expect(page.locator("#answer")).to_be_visible(timeout=1000 * SECONDS)
        assert page.locator("#top .bar").count() == 5
        assert page.locator("#top span").first.text_content() == "red"
        expect(page.locator("#badge")).to_have_text(re.compile("known"))
        expect(page.locator("#method")).to_have_text("occlusion of red")
        assert page.locator("#nearest figure").count() == 3
        assert re.match(
            r"red, cosine 0\.\d|red, cosine 1\.000", page.locator("#nearest figcaption").first.text_content()
        )
        assert is_drawn(page, "#shown")
        assert is_drawn(page, "#heat")
        assert is_drawn(page, "#nearest img")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        assert not page.messages

        (tmp_path / "bad.jpg").write_text("no photo")
        drop(page, "#drop", tmp_path / "bad.jpg")
        expect(page.locator("#problem")).to_contain_text("the photo: neither JPEG")
        expect(page.locator("#answer")).to_be_hidden()
        assert [text for text in page.messages if "422" not in text] == []

        page.locator("#enroll").click()
        expect(page.locator("#refusal")).to_contain_text("the product has no name\nenter a name")
        page.locator("#name").fill("red")
        drop(page, "#drop-photos", *sorted((photos / "new").iterdir())[:5])
        assert page.locator("#chosen figure").count() == 5
        page.locator("#enroll").click()
        expect(page.locator("#refusal")).to_contain_text("red is already a product", timeout=1000 * SECONDS)
        page.locator("#name").fill(NEW)
        page.locator("#name").press("Enter")
        expect(page.locator("#enrolled")).to_be_visible(timeout=1000 * SECONDS)
        expect(page.locator("#summary")).to_contain_text(f"{NEW} is enrolled: 7 products now")
        expect(page.locator("#expected")).to_contain_text("answers stolen")
        run_id = re.search(r"runs=(\w{32})", page.locator("#command").text_content())[1]
        assert run_id in [run.info.run_id for run in trained.store.runs()]

        drop(page, "#drop", photos / "new" / "5.png")
        expect(page.locator("#top span").first).to_have_text(NEW, timeout=1000 * SECONDS)
        assert page.locator("#nearest figcaption").first.text_content().startswith(NEW)
        assert [text for text in page.messages if "422" not in text] == []


def test_without_its_data_set_a_run_still_answers(trained, photos, opened, tmp_path):
    (photos / "train").rename(photos / "elsewhere")
    try:
        with demo(trained, tmp_path) as address:
            page = opened(address)
            expect(page.locator("#closed")).to_contain_text("there is no such folder")
            expect(page.locator("#form")).to_be_hidden()
            page.locator("#photo").set_input_files(photo(tmp_path / "blue.png", COLORS["blue"], 8))
            expect(page.locator("#top span").first).to_have_text("blue", timeout=1000 * SECONDS)
            expect(page.locator("#near")).to_be_hidden()
            assert not page.messages
    finally:
        (photos / "elsewhere").rename(photos / "train")
