"""task.verify: whether a run trained again from its record has the same metrics, bit for bit."""

from rp2k_lab.core.errors import NotReproduced
from rp2k_lab.tracking.local_runs import history_of
from rp2k_lab.tracking.mlflow_runs import History, RunInfo, RunStore

# What no two runs share.
SPEEDS = frozenset({"train/images_per_second"})


def verify(uri: str | None, run: RunInfo, history: History) -> str:
    """One line: how much was compared.

    Args:
        uri: the store.
        history: of the run trained again.

    Raises:
        NotReproduced: the first metrics that differ, and their number.
    """
    recorded = history_of(uri, run.run_id) or RunStore(uri).history(run.run_id)
    found = changes(recorded, history)
    compared = (recorded.keys() | history.keys()) - SPEEDS
    if not found:
        values = sum(len(recorded[name]) for name in compared)
        return f"{values} values of {len(compared)} metrics are those of run {run.name}, id {run.run_id}, bit for bit"
    shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
    raise NotReproduced(
        f"run {run.run_id}: {len(found)} of {len(compared)} metrics came out otherwise: {shown}\n"
        "compare commit, packages and machine: both runs have an environment.txt"
    )


def changes(recorded: History, history: History) -> list[str]:
    """A text for each metric whose values differ in any bit, in the order of the first step that does."""
    found = []
    for name in sorted((recorded.keys() | history.keys()) - SPEEDS):
        there, here = recorded.get(name, []), history.get(name, [])
        for (step, value), (own_step, own) in zip(there, here, strict=False):
            if (step, value.hex()) != (own_step, own.hex()):
                found.append((step, f"{name} at step {step}: {value!r} recorded, {own!r} now"))
                break
        else:
            if len(there) != len(here):
                found.append((0, f"{name}: {len(there)} values recorded, {len(here)} now"))
    return [text for _, text in sorted(found)]
