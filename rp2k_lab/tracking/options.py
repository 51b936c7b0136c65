"""Options of the tracking group, and what opens a run's record."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from rp2k_lab.core.options import Group, PositiveFloat
from rp2k_lab.plugins import register
from rp2k_lab.tracking.address import check_address

if TYPE_CHECKING:
    from rp2k_lab.tracking.tracker import MemoryTracker


def _checked(address: str) -> str:
    """Return an address that MLflow has stores for; `check_address` raises for others."""
    check_address(address)
    return address


class Tracking(Group):
    """Where runs are recorded; a choice of an installed package may derive from it and build another tracker."""

    if TYPE_CHECKING:
        name: str  # each choice declares its own

    uri: Annotated[str, AfterValidator(_checked)] | None = Field(
        description="MLflow store: http://host:port or sqlite:///file; null: MLFLOW_TRACKING_URI, or without it sqlite "
        "and a folder in the clone (mlruns/)"
    )
    experiment: Annotated[str, Field(min_length=1)] = Field(
        description="MLflow experiment of the run; MLFLOW_EXPERIMENT_NAME replaces the default"
    )
    run_name: Annotated[str, Field(min_length=1)] | None = Field(
        description="name of the run; null: <model>_<dataset>, what differs from the defaults, and a short id"
    )
    flush_seconds: PositiveFloat = Field(description="seconds between two uploads of the journal")

    def build(self, name: str, folder: Path, run_id: str | None) -> "MemoryTracker":
        """Open the record of a run.

        Args:
            name: the run's name.
            folder: its folder, for the journal.
            run_id: the run to reopen; None: a new one.
        """
        from rp2k_lab.tracking.tracker import MlflowTracker

        return MlflowTracker(self, name, folder, run_id)


@register("tracking")
class Mlflow(Tracking):
    """MLflow: `mlflow` uploads during the run, `offline` later."""

    name: Literal["mlflow", "offline"] = Field(
        description="mlflow: upload during the run; offline: upload later, by task=sync"
    )
