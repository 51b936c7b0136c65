"""task.verify: compare the metrics of a run with those of its repetition, bit for bit."""

from rp2k_lab.core.errors import NotReproduced
from rp2k_lab.dataset.class_groups import GROUPS
from rp2k_lab.tracking.local_runs import history_of
from rp2k_lab.tracking.mlflow_runs import CLOSING, History, RunInfo, RunStore

# Metrics that differ between identical runs; the prefix of those of the machine.
SPEEDS, SYSTEM = frozenset({"train/images_per_second"}), "system/"
_OF_GROUPS = frozenset(f"{split}/{group}_top1" for split in ("val", *CLOSING.values()) for group in GROUPS)


def verify(uri: str | None, run: RunInfo, history: History, groups: str) -> str:
    """Return one line with the number of equal values.

    Accuracies of head, medium and tail are not compared with those of a version that drew other borders between them.

    Args:
        uri: the store.
        history: metrics of the repetition.
        groups: its tag `class_groups`.

    Raises:
        NotReproduced: metrics differ; names the first and their number.
    """
    recorded = with_closing(history_of(uri, run.run_id) or RunStore(uri).history(run.run_id))
    other_groups = run.tags.get("class_groups", groups) != groups
    ignored = SPEEDS | _OF_GROUPS if other_groups else SPEEDS
    differences = changes(recorded, history, ignored)
    compared = _compared(recorded, history, ignored)
    if not differences:
        values = sum(len(recorded[name]) for name in compared)
        but = "; head, medium and tail were other classes then and are not compared" if other_groups else ""
        return f"{values} values of {len(compared)} metrics equal run {run.name}, id {run.run_id}, bit for bit{but}"
    first = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
    raise NotReproduced(
        f"run {run.run_id}: {len(differences)} of {len(compared)} metrics differ: {first}\n"
        "compare commit, packages and machine in the environment.txt of both runs"
    )


def with_closing(history: History) -> History:
    """Return a training's history with val's closing scores under today's names.

    Earlier versions logged them at the end of the curves: a second value at the last step.
    """
    curves = {name: values for name, values in history.items() if name.startswith("val/")}
    if any(name.startswith(f"{CLOSING['val']}/") for name in history):
        return history
    closing = {n: values for n, values in curves.items() if len(values) > 1 and values[-1][0] == values[-2][0]}
    renamed = {name.replace("val", CLOSING["val"], 1): values[-1:] for name, values in closing.items()}
    return history | {name: values[:-1] for name, values in closing.items()} | renamed


def changes(recorded: History, history: History, ignored: frozenset[str] = SPEEDS) -> list[str]:
    """Return a text for each metric whose values differ in any bit, ordered by the first step that differs."""
    differences = []
    for name in sorted(_compared(recorded, history, ignored)):
        before, now = recorded.get(name, []), history.get(name, [])
        for (step, value), (new_step, new_value) in zip(before, now, strict=False):
            if (step, value.hex()) != (new_step, new_value.hex()):
                differences.append((step, f"{name} at step {step}: {value!r} recorded, {new_value!r} now"))
                break
        else:
            if len(before) != len(now):
                differences.append((0, f"{name}: {len(before)} values recorded, {len(now)} now"))
    return [text for _, text in sorted(differences)]


def _compared(recorded: History, history: History, ignored: frozenset[str]) -> set[str]:
    return {name for name in (recorded.keys() | history.keys()) - ignored if not name.startswith(SYSTEM)}
