"""task.verify: compare the metrics of a run with those of its repetition, bit for bit."""

from rp2k_lab.core.errors import NotReproduced
from rp2k_lab.tracking.local_runs import history_of
from rp2k_lab.tracking.mlflow_runs import History, RunInfo, RunStore

# Metrics that differ between identical runs.
SPEEDS = frozenset({"train/images_per_second"})


def verify(uri: str | None, run: RunInfo, history: History) -> str:
    """Return one line with the number of equal values.

    Args:
        uri: the store.
        history: metrics of the repetition.

    Raises:
        NotReproduced: metrics differ; names the first and their number.
    """
    recorded = history_of(uri, run.run_id) or RunStore(uri).history(run.run_id)
    differences = changes(recorded, history)
    compared = (recorded.keys() | history.keys()) - SPEEDS
    if not differences:
        values = sum(len(recorded[name]) for name in compared)
        return f"{values} values of {len(compared)} metrics equal run {run.name}, id {run.run_id}, bit for bit"
    first = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
    raise NotReproduced(
        f"run {run.run_id}: {len(differences)} of {len(compared)} metrics differ: {first}\n"
        "compare commit, packages and machine in the environment.txt of both runs"
    )


def changes(recorded: History, history: History) -> list[str]:
    """Return a text for each metric whose values differ in any bit, ordered by the first step that differs."""
    differences = []
    for name in sorted((recorded.keys() | history.keys()) - SPEEDS):
        before, now = recorded.get(name, []), history.get(name, [])
        for (step, value), (new_step, new_value) in zip(before, now, strict=False):
            if (step, value.hex()) != (new_step, new_value.hex()):
                differences.append((step, f"{name} at step {step}: {value!r} recorded, {new_value!r} now"))
                break
        else:
            if len(before) != len(now):
                differences.append((0, f"{name}: {len(before)} values recorded, {len(now)} now"))
    return [text for _, text in sorted(differences)]
