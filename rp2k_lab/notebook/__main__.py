"""`python -m rp2k_lab.notebook`: execute the notebooks and write each as an offline HTML page."""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rp2k_lab import CLONE, IGNORED_VARIABLES, PROJECT
from rp2k_lab.cli.app import report_error
from rp2k_lab.core.environment import prepare_process
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.signals import claim_signals
from rp2k_lab.core.streams import keep_standard_streams
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.latest_runs import is_word
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.run_lookup import lookup_run

NOTEBOOKS = ("error_cases", "data_tour")
_CELL_SECONDS = 3600  # the first listing of a large data set takes long
# Light or dark as the browser prefers, and without the template's scripts from servers: widgets, formulas and diagrams,
# which the notebooks do not use.
_TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block body_header %}<body class="jp-Notebook"><main>{% endblock %}
{% block html_head_css %}<style>@media (prefers-color-scheme: dark) { {{ resources.dark_theme }} }
:root { color-scheme: light dark; } body.jp-Notebook { max-width: 1240px; margin: 0 auto; padding: 16px 24px 60px; }
.jp-RenderedHTMLCommon { font-size: 15px; } .jp-OutputArea-prompt, .jp-InputPrompt { display: none; }</style>
{% endblock %}"""


class CellFailed(Exception):
    """A cell raised an unexpected error: the notebook, the cell and the error in one line."""

    exit_code = 1


def main(arguments: list[str]) -> int:
    """Execute every notebook, also after a failure; return the exit code of the first failure, or 0."""
    parser = argparse.ArgumentParser(prog="python -m rp2k_lab.notebook", allow_abbrev=False)
    parser.add_argument(
        "--run", help="id (6 characters are enough) or name of a run, last or best; default: the newest suitable run"
    )
    parser.add_argument("--uri", help="the MLflow store; default: the clone's store")
    parser.add_argument("--folder", type=Path, default=PROJECT / "outputs" / "notebooks", help="folder of the pages")
    request = parser.parse_args(arguments)
    parameters = {"run": request.run or None, "uri": request.uri or None}
    try:
        if request.run:
            run = lookup_run(parameters["uri"], request.run)
            if is_word(request.run):
                print(f"run          {escape_controls(run.name)}, id {run.run_id}", flush=True)
                parameters["run"] = run.run_id
        else:
            RunStore(parameters["uri"])
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
    """Execute a notebook, write `folder`/<name>.html and return its path.

    Args:
        parameters: values of the cell tagged `parameters`.

    Raises:
        RequestError, DataError: a cell raised it.
        CellFailed: a cell raised another error.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    if CLONE is None:
        raise RequestError("notebooks: an installed package has none\nrun them in a clone of the repository")
    notebook = execute(CLONE / "notebooks" / f"{name}.py", parameters)
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"offline.html.j2": _TEMPLATE})],
        template_file="offline.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    dark = Path(exporter.template_paths[0]) / "static" / "theme-dark.css"
    resources = {"metadata": {"name": name.replace("_", " ")}, "dark_theme": dark.read_text("utf-8")}
    page, _ = exporter.from_notebook_node(notebook, resources)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.html"
    file.write_text(page, "utf-8")
    return file


def execute(source: Path, parameters: dict[str, str | None]):
    """Execute a jupytext source in the clone's folder and return the notebook.

    Args:
        parameters: values of the cell tagged `parameters`.

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
        with TemporaryDirectory(prefix="rp2k-lab-") as sockets:
            # The kernel uses sockets in a private folder instead of ports, which every user of the machine can reach.
            connection = {"transport": "ipc", "ip": f"{sockets}/socket", "connection_file": f"{sockets}/kernel.json"}
            options = {"timeout": _CELL_SECONDS, "resources": {"metadata": {"path": str(source.parents[1])}}}
            NotebookClient(notebook, config=TraitletsConfig({"ConnectionFileMixin": connection}), **options).execute()
    except CellExecutionError as error:
        kinds = {kind.__name__: kind for kind in (RequestError, DataError)}
        if error.ename in kinds:
            raise kinds[error.ename](error.evalue) from None
        failed = next(c for c in notebook.cells if any(o.output_type == "error" for o in c.get("outputs", ())))
        last_line, reason = failed.source.splitlines()[-1], (error.evalue.splitlines() or [""])[0]
        raise CellFailed(f"{source.name}: the cell ending in {last_line}: {error.ename}: {reason}") from error
    cell.source = _assignments({name: value and redact(value) for name, value in parameters.items()})
    return notebook


def _assignments(parameters: dict[str, str | None]) -> str:
    return "\n".join(f"{name} = {value!r}" for name, value in parameters.items())


if __name__ == "__main__":
    keep_standard_streams()
    prepare_process(IGNORED_VARIABLES)
    claim_signals()
    sys.exit(main(sys.argv[1:]))
