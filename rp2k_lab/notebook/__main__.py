"""`python -m rp2k_lab.notebook`: execute the notebooks and write each as an HTML page that needs no network."""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rp2k_lab import PROJECT
from rp2k_lab.cli.app import report_error
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.run_lookup import lookup_run

NOTEBOOKS = ("error_cases", "data_tour")
_CELL_SECONDS = 3600  # for a data set whose photos are listed for the first time
# The template's scripts come from servers: one for widgets, one for formulas, one for diagrams; there are none here.
_TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>body.jp-Notebook { max-width: 1240px; margin: 0 auto; padding: 16px 24px 60px; }
.jp-RenderedHTMLCommon { font-size: 15px; } .jp-OutputArea-prompt, .jp-InputPrompt { display: none; }</style>
{% endblock %}"""


class CellFailed(Exception):
    """A cell raised what no request can explain.  The notebook, the error in a line."""

    exit_code = 1


def main(arguments: list[str]) -> int:
    """Execute every notebook, also after one that could not be; returns the exit code, that of the first failure."""
    parser = argparse.ArgumentParser(prog="python -m rp2k_lab.notebook", allow_abbrev=False)
    parser.add_argument("--run", help="an id (6 characters are enough) or a name; else the newest run that fits")
    parser.add_argument("--uri", help="the MLflow store; else the clone's own")
    parser.add_argument("--folder", type=Path, default=PROJECT / "outputs" / "notebooks", help="for the pages")
    request = parser.parse_args(arguments)
    parameters = {"run": request.run or None, "uri": request.uri or None}
    try:
        lookup_run(parameters["uri"], parameters["run"]) if parameters["run"] else RunStore(parameters["uri"])
        codes = [_try(name, parameters, request.folder) for name in NOTEBOOKS]
    except (Exception, KeyboardInterrupt) as error:
        return report_error(error)
    return next(filter(None, codes), 0)


def _try(name: str, parameters: dict[str, str | None], folder: Path) -> int:
    started = time.monotonic()
    try:
        page = write_page(name, parameters, folder)
    except Exception as error:
        return report_error(error)
    print(f"{name:<12} {page}  ({time.monotonic() - started:.0f} s)", flush=True)
    return 0


def write_page(name: str, parameters: dict[str, str | None], folder: Path) -> Path:
    """Execute a notebook and write `folder`/<name>.html.

    Args:
        parameters: for its cell of parameters.

    Raises:
        RequestError, DataError: a cell did.
        CellFailed: a cell raised anything else.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    notebook = execute(PROJECT / "notebooks" / f"{name}.py", parameters)
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"offline.html.j2": _TEMPLATE})],
        template_file="offline.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name.replace("_", " ")}})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.html"
    file.write_text(page, "utf-8")
    return file


def execute(source: Path, parameters: dict[str, str | None]):
    """The executed notebook of a jupytext source, run in the clone's folder.

    Args:
        parameters: replace the cell with the tag `parameters`.

    Raises: as `write_page`.
    """
    import jupytext
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config as TraitletsConfig

    notebook = jupytext.read(source)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source = _assignments(parameters)
    try:
        with TemporaryDirectory(prefix="rp2k-lab-") as private:
            # To the kernel by sockets in a folder of our own, not by ports that every user of the machine reaches.
            way = {"transport": "ipc", "ip": f"{private}/socket", "connection_file": f"{private}/kernel.json"}
            options = {"timeout": _CELL_SECONDS, "resources": {"metadata": {"path": str(PROJECT)}}}
            NotebookClient(notebook, config=TraitletsConfig({"ConnectionFileMixin": way}), **options).execute()
    except CellExecutionError as error:
        kinds = {kind.__name__: kind for kind in (RequestError, DataError)}
        if error.ename in kinds:
            raise kinds[error.ename](error.evalue) from None
        failed = next(c for c in notebook.cells if any(o.output_type == "error" for o in c.get("outputs", ())))
        where, reason = failed.source.splitlines()[-1], (error.evalue.splitlines() or [""])[0]
        raise CellFailed(f"{source.name}, the cell that ends with {where}: {error.ename}: {reason}") from error
    cell.source = _assignments({name: value and redact(value) for name, value in parameters.items()})
    return notebook


def _assignments(parameters: dict[str, str | None]) -> str:
    return "\n".join(f"{name} = {value!r}" for name, value in parameters.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
