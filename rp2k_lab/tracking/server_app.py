"""MLflow's web application with the first visit's settings for training runs; `mlflow server --app-name` starts it.

MLflow 3.17 opens each experiment as one of language models and its assistant beside it, until the browser has other
settings; no option of the server and no tag of an experiment changes that.
"""

import json
from pathlib import Path

from flask import Response
from mlflow.server import app as pages
from mlflow.server.fastapi_app import app

__all__ = ["app"]

# Keys of the browser's storage; what a person has chosen stays.
_SETTINGS = {
    "mlflow.workflowType_v1": json.dumps("machine_learning"),
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
_SCRIPT = f"""<script>
for (const [key, value] of Object.entries({json.dumps(_SETTINGS)}))
    if (localStorage.getItem(key) === null) localStorage.setItem(key, value);
</script>"""


def _index() -> Response:
    """Return MLflow's page, with the settings before its own scripts."""
    page = (Path(str(pages.static_folder)) / "index.html").read_text("utf-8")
    return Response(page.replace("<head>", f"<head>{_SCRIPT}", 1), mimetype="text/html")


pages.view_functions["serve"] = _index
