"""tracking=csv: what MLflow gets, and each metric as a line of metrics.csv in the run's folder."""

from pathlib import Path
from typing import Literal

from rp2k_lab import register
from rp2k_lab.tracking.options import Tracking


@register("tracking")
class Csv(Tracking):
    """Options of the tracker: those of tracking=mlflow."""

    name: Literal["csv"]

    def build(self, name: str, folder: Path, run_id: str | None):
        """Open the record of a run."""
        from rp2k_lab.tracking.tracker import MlflowTracker

        class CsvTracker(MlflowTracker):
            """An MLflow run with a copy of its metrics."""

            def log_metrics(self, metrics, step):
                super().log_metrics(metrics, step)
                with open(folder / "metrics.csv", "a", encoding="utf-8") as file:
                    file.writelines(f"{step},{key},{value!r}\n" for key, value in metrics.items())

        return CsvTracker(self, name, folder, run_id)
