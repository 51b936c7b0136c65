"""Checkpoint files: written whole or not at all, and the folder of those that a run can go on from."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import mindspore
from mindspore import nn

from rp2k_lab.core.files import rename, sha256_of, write_text

log = logging.getLogger(__name__)


def save_checkpoint(net: nn.Cell, file: Path, step: int, leave_out: Collection[str] = ()) -> str:
    """Write the parameters of `net` and the step count to `file` (`.ckpt`), replacing it in one move.

    Args:
        leave_out: names of parameters that are not written.

    Returns:
        The file's SHA-256, hexadecimal.

    Raises:
        OSError: the disk does not take it; what was there before is whole.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.tmp.ckpt")  # save_checkpoint insists on the suffix
    kept = [{"name": p.name, "data": p} for p in net.get_parameters() if p.name not in leave_out]
    try:
        with _quiet_mindspore():
            mindspore.save_checkpoint(kept, str(temporary), append_dict={"step": step})
        temporary.chmod(0o644)
        digest = sha256_of(temporary)
        rename(temporary, file)
    except OSError as error:
        for part in file.parent.glob(f".{file.stem}.*"):  # which would fill what is left of a full disk
            part.unlink()
        if error.errno and not error.filename:
            error.filename = str(file)
        raise
    return digest


def load_checkpoint(net: nn.Cell, file: Path) -> int:
    """Load every parameter of `net` from `file`; returns the step count stored in it.

    Raises:
        ValueError: the file is damaged or no checkpoint of ours, or it lacks parameters of `net` or has them in another
            shape; names the first.
    """
    values = mindspore.load_checkpoint(str(file))
    if "step" not in values:
        raise ValueError(f"{file}: has no step count, so it is no checkpoint of this project")
    step = int(values.pop("step").asnumpy())
    for parameter in net.get_parameters():
        if parameter.name in values and values[parameter.name].shape != parameter.shape:
            there, here = values[parameter.name].shape, parameter.shape
            raise ValueError(f"{file}: {parameter.name} has the shape {there}, in the network it has {here}")
    missing, _ = mindspore.load_param_into_net(net, values)
    if missing:
        raise ValueError(f"{file}: lacks {len(missing)} parameters of the network, the first is {missing[0]}")
    return step


@dataclass(frozen=True)
class TrainingPosition:
    """Where a training stood when it was saved; what the weights' file does not hold.

    The order of the photos and their augmentation are functions of seed, epoch and position, and the masks of dropout
    of a counter among the parameters: there is no random state to keep.

    Attributes:
        step: steps done since the start of the run.
        loss: of that step.
        epoch_open: the step was its epoch's last, and the evaluation after it did not end.
        best: the best val top-1 so far and its step, or None.
        logged: how many values of each metric the run had.
    """

    step: int
    loss: float
    epoch_open: bool
    best: tuple[float, int] | None
    logged: dict[str, int]


class CheckpointFolder:
    """The checkpoints of one run.

    `step-N.ckpt` holds weights and optimizer.  `step-N.json`, written after it, holds its TrainingPosition and the
    SHA-256 of the files that belong to it.  `best-N.ckpt` holds the best weights alone.  `last.ckpt` and
    `best.ckpt` are links to the newest of each.

    Args:
        folder: made when something is saved.
        kept: how many `step-N` stay, with the best weights that each of them knows.
    """

    def __init__(self, folder: Path, kept: int):
        self.folder, self._kept = folder, kept
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"

    def save_best(self, network: nn.Cell, step: int) -> None:
        """Keep the weights of the best epoch so far; `save` is to follow, which makes it known."""
        digest = save_checkpoint(network, self._best_file(step), step)
        write_text(self._best_file(step).with_suffix(".sha256"), digest)
        _link(self.best, self._best_file(step))

    def save(self, train_network: nn.Cell, point: TrainingPosition) -> None:
        """Keep what a run goes on from, and remove what the policy does not keep."""
        file = self.file(point.step)
        digests = {file.name: save_checkpoint(train_network, file, point.step)}
        if point.best:
            best = self._best_file(point.best[1])
            digests[best.name] = best.with_suffix(".sha256").read_text(encoding="utf-8")
        record = {"point": asdict(point), "sha256": digests}
        write_text(file.with_suffix(".json"), json.dumps(record | {"seal": _seal(record)}))
        _link(self.last, file)
        self._prune()

    def newest(self) -> TrainingPosition | None:
        """The newest point that can be gone on from; says of a damaged one, in a line, that it was passed over."""
        for record in sorted(self.folder.glob("step-*.json"), reverse=True):
            point, damage = self._read(record)
            if point:
                return point
            log.warning("%s: damaged (%s); the checkpoint before it is used", record.with_suffix(".ckpt"), damage)
        return None

    def restore(self, train_network: nn.Cell, point: TrainingPosition) -> None:
        """Load the weights and the optimizer of a point."""
        load_checkpoint(train_network, self.file(point.step))

    def rollback_to(self, point: TrainingPosition | None) -> None:
        """Remove what a killed process left unfinished or saved after the point (None: everything): it comes again."""
        links = {self.last: self.file(point.step) if point else None}
        links[self.best] = self._best_file(point.best[1]) if point and point.best else None
        for part in self.folder.glob(".*"):
            part.unlink()
        for record in self.folder.glob("step-*.json"):
            if point is None or _step_of(record) > point.step:
                record.unlink()
        for link, file in links.items():
            if file:
                _link(link, file)
            else:
                link.unlink(missing_ok=True)
        self._prune()

    def file(self, step: int) -> Path:
        """Where weights and optimizer of a step are."""
        return self.folder / f"step-{step:08d}.ckpt"

    def _best_file(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.ckpt"

    def _read(self, record: Path) -> tuple[TrainingPosition | None, str]:
        """(the point, or None; what is wrong with it)."""
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            if content.pop("seal") != _seal(content):
                return None, f"{record.name} is not what was written"
            best = content["point"]["best"]
            point = TrainingPosition(**content["point"] | {"best": best and tuple(best)})
            for name, digest in content["sha256"].items():
                if sha256_of(self.folder / name) != digest:
                    return None, f"{name} is not what was written"
        except FileNotFoundError as error:
            return None, f"{Path(error.filename).name} is missing"
        except (ValueError, KeyError, TypeError, AttributeError, OSError):  # no JSON, or of another shape
            return None, f"{record.name} cannot be read"
        return point, ""

    def _prune(self) -> None:
        """Keep the newest records and the files that they name; records go first: what has one is whole."""
        records, needed = sorted(self.folder.glob("step-*.json")), set()
        for record in records[: -self._kept]:
            record.unlink()
        for record in records[-self._kept :]:
            with suppress(ValueError, KeyError):  # a damaged one, which names nothing
                needed |= {Path(name).stem for name in json.loads(record.read_text(encoding="utf-8"))["sha256"]}
        for file in [*self.folder.glob("step-*"), *self.folder.glob("best-*")]:
            if file.stem not in needed:
                file.unlink()


@contextmanager
def _quiet_mindspore() -> Iterator[None]:
    """Without its log, where it says the error that it then raises."""
    its_log = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")  # mindspore/log.py, _setup_logger
    its_log.disabled = True
    try:
        yield
    finally:
        its_log.disabled = False


def _step_of(file: Path) -> int:
    return int(file.stem.partition("-")[2])


def _seal(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _link(link: Path, file: Path) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(file.name)
    temporary.replace(link)
