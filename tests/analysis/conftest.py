"""Errors' pages in a real browser."""

from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from tests.helpers import error_tables
from tests.helpers.error_pages import NAMES, write


@pytest.fixture
def opened(browser):
    """opened(file, width=1440, scheme="light", before=""): the page with its requests and its console messages.

    `before` is a script that runs first.
    """
    contexts = []

    def open_page(file, width=1440, scheme="light", before=""):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        context.add_init_script(before)
        page, requests, messages = context.new_page(), [], []
        page.set_default_timeout(60_000)
        context.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda line: messages.append(line.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri())
        expect(page.locator("#count")).not_to_be_empty(timeout=60_000)  # the page's policy forbids wait_for_function
        requests = [url for url in requests if not url.startswith("data:")]
        return SimpleNamespace(page=page, requests=requests, messages=messages)

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A page of 300 images and two runs."""
    file, tables = tmp_path_factory.mktemp("page") / "errors.html", error_tables.tables(300, NAMES)
    assert write(file, tables, NAMES, with_pairs=True) == {"rows": 0, "images": 0, "explanations": 0}
    return SimpleNamespace(file=file, tables=tables)
