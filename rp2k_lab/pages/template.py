"""Templates of HTML pages: autoescaping, the palette, and filters.

Names of classes and files come from data; templates escape them and show control characters as codes.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rp2k_lab.core.text import escape_controls, in_bytes, percent, shorten
from rp2k_lab.pages.svg import FONTS, STYLE, palette


def short(text: str) -> str:
    """Return at most 40 characters, so that a name fits under its image."""
    return shorten(text, 40)


def markdown(text: str) -> Markup:
    """Return the HTML of Markdown by a person: GitHub's tables; tags are escaped, links have safe schemes alone."""
    from markdown_it import MarkdownIt

    lines = (escape_controls(line.replace("\t", "    ")) for line in text.strip().splitlines())
    parser = MarkdownIt("js-default", {"html": False}).disable("image")
    return Markup(parser.render("\n".join(lines)))


def script_json(data: Any) -> Markup:
    """Return JSON for a script element: without <, > and &.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def script_values(data: Any, *scripts: Path) -> dict[str, Any]:
    """Return the values of a page with a script: `data` as JSON, the joined `script` and its `digest` for the policy.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    program = "\n".join(script.read_text("utf-8") for script in scripts)
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    return {"data": script_json(data), "script": Markup(program), "digest": digest}


def render(values: dict[str, Any], template: Path) -> str:
    """Return the page as HTML.

    Raises:
        jinja2.UndefinedError: `values` lacks what the template uses.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    filters = {"escape_controls": escape_controls, "short": short, "in_bytes": in_bytes, "percent": percent}
    environment.filters |= filters | {"thousands": lambda number: f"{number:,}", "markdown": markdown}
    environment.globals |= {"palette": palette(":root"), "plot_style": Markup(STYLE), "fonts": Markup(FONTS)}
    return environment.get_template(template.name).render(values)
