"""Checkpoint files, written atomically, and the folder of a run's checkpoints."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import mindspore
from mindspore import Parameter, Tensor, nn

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import link_or_copy, make_folder, sha256_of, write_atomically, write_text
from rp2k_lab.core.text import escape_controls

log = logging.getLogger(__name__)


class HasParameters(Protocol):
    """A network, or a copy of its parameters."""

    def get_parameters(self) -> Iterable[Parameter]:
        """Return the parameters, named."""
        ...


class ParameterCopy:
    """A copy of a network's parameters in the host's memory, which a thread can save while the network trains."""

    def __init__(self, net: HasParameters):
        # MindSpore's array may be the parameter's own memory.
        self._parameters = [Parameter(Tensor(p.asnumpy().copy()), name=p.name) for p in net.get_parameters()]

    def get_parameters(self) -> list[Parameter]:
        """Return the copied parameters, with their names and dtypes, in order."""
        return self._parameters


def save_checkpoint(net: HasParameters, file: Path, step: int, leave_out: Collection[str] = ()) -> str:
    """Write the parameters of `net` and the step count to `file` (`.ckpt`), atomically.

    Args:
        leave_out: names of parameters that are not saved.

    Returns:
        The file's SHA-256, hexadecimal.

    Raises:
        OSError: the file cannot be written; an earlier one is unchanged.
    """
    make_folder(file.parent)
    kept = [{"name": p.name, "data": p} for p in net.get_parameters() if p.name not in leave_out]
    try:
        with write_atomically(file, sync=True, suffix=".ckpt") as part:  # save_checkpoint insists on the suffix
            _save(kept, part, step)
            with suppress(PermissionError):  # exFAT has no permissions
                part.chmod(0o644)
            return sha256_of(part)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(file)
        raise


def _save(parameters: list[dict[str, Any]], part: Path, step: int) -> None:
    """Write parameters to a new file; MindSpore writes to another name, renames that and forbids writing last."""
    part.unlink(missing_ok=True)
    try:
        with _quiet_mindspore():
            mindspore.save_checkpoint(parameters, str(part), append_dict={"step": step})
    except PermissionError:
        if not part.exists():  # else only the last of the three failed: exFAT has no permissions
            raise
    finally:
        part.with_suffix(".tmp").unlink(missing_ok=True)  # after an error it would take the rest of a full disk


def load_checkpoint(net: nn.Cell, file: Path) -> int:
    """Load every parameter of `net` from `file`; return its step count.

    Raises:
        ValueError: damaged file, not a checkpoint of this project, or parameters of `net` that are missing or have
            another shape; names the first.
    """
    values = mindspore.load_checkpoint(str(file))
    if "step" not in values:
        raise ValueError(f"{file}: has no step count, not a checkpoint of this project")
    step = int(values.pop("step").asnumpy())
    for parameter in net.get_parameters():
        if parameter.name in values and values[parameter.name].shape != parameter.shape:
            shape = values[parameter.name].shape
            raise ValueError(f"{file}: {parameter.name} has shape {shape}, but {parameter.shape} in the network")
    missing, _ = mindspore.load_param_into_net(net, values)
    if missing:
        raise ValueError(f"{file}: lacks {len(missing)} parameters of the network, the first is {missing[0]}")
    return step


@dataclass(frozen=True)
class TrainingPosition:
    """The state of a training beside its parameters.

    It has no random state: image order and augmentation are functions of seed, epoch and position, and the masks of
    dropout are functions of a counter among the parameters.

    Attributes:
        step: steps done since the start of the run.
        loss: loss of that step.
        epoch_open: the step was the last of its epoch, whose evaluation did not finish.
        best: best val top-1 so far and its step, or None.
        logged: number of logged values by metric.
    """

    step: int
    loss: float
    epoch_open: bool
    best: tuple[float, int] | None
    logged: dict[str, int]


class CheckpointFolder:
    """The checkpoints of one run.

    `step-N.ckpt` has weights and optimizer.  `step-N.json`, written after it, has its TrainingPosition and the SHA-256
    of its files.  `best-N.ckpt` has only the best weights.  `last.ckpt` and `best.ckpt` link to the newest of each;
    on a disk without links they are copies.

    Args:
        folder: created by the first save.
        kept: number of `step-N` to keep, each with its best weights.
    """

    def __init__(self, folder: Path, kept: int):
        self.folder, self._kept = folder, kept
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"

    def save_best(self, network: HasParameters, step: int) -> None:
        """Save the weights of the best epoch so far; a `save` must follow to record them."""
        digest = save_checkpoint(network, self._best_file(step), step)
        write_text(self._best_file(step).with_suffix(".sha256"), digest, sync=True)
        link_or_copy(self.best, self._best_file(step))

    def save(self, train_network: HasParameters, position: TrainingPosition) -> None:
        """Save weights, optimizer and position, and remove old checkpoints."""
        file = self.file(position.step)
        digests = {file.name: save_checkpoint(train_network, file, position.step)}
        if position.best:
            best = self._best_file(position.best[1])
            digests[best.name] = _digest_of(best)
        record = {"point": asdict(position), "sha256": digests}
        write_text(file.with_suffix(".json"), json.dumps(record | {"seal": _seal(record)}), sync=True)
        link_or_copy(self.last, file)
        self._prune()

    def newest(self) -> TrainingPosition | None:
        """Return the newest valid position, or None; warn about damaged checkpoints."""
        for record in sorted(self.folder.glob("step-*.json"), reverse=True):
            position, damage = self._read(record)
            if position:
                return position
            log.warning("%s: damaged (%s); using the previous checkpoint", record.with_suffix(".ckpt"), damage)
        return None

    def restore(self, train_network: nn.Cell, position: TrainingPosition) -> None:
        """Load the weights and optimizer of a position."""
        load_checkpoint(train_network, self.file(position.step))

    def rollback_to(self, position: TrainingPosition | None) -> None:
        """Remove unfinished files and all checkpoints after a position (None: all checkpoints)."""
        links = {self.last: self.file(position.step) if position else None}
        links[self.best] = self._best_file(position.best[1]) if position and position.best else None
        for part in self.folder.glob(".*"):
            part.unlink()
        for record in self.folder.glob("step-*.json"):
            if position is None or _step_of(record) > position.step:
                record.unlink()
        for link, file in links.items():
            if file:
                link_or_copy(link, file)
            else:
                link.unlink(missing_ok=True)
        self._prune()

    def state_files(self) -> list[Path]:
        """Return the files that only resuming needs: all but the best weights and the link to them."""
        kept = {self.best, self.best.resolve()}
        files = [self.last, *self.folder.glob("step-*"), *self.folder.glob("best-*")]
        return sorted(file for file in files if file not in kept and (file.exists() or file.is_symlink()))

    def keep_best(self) -> None:
        """Remove what only resuming needs; the best weights become `best.ckpt` itself.

        A process that is killed meanwhile leaves a folder to which a second call does the rest.
        """
        for record in self.folder.glob("step-*.json"):  # first: no record without its files
            record.unlink()
        if self.best.is_symlink():
            self.best.resolve().replace(self.best)
        for file in self.state_files():
            file.unlink()

    def file(self, step: int) -> Path:
        """Return the file with weights and optimizer of a step."""
        return self.folder / f"step-{step:08d}.ckpt"

    def _best_file(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.ckpt"

    def _read(self, record: Path) -> tuple[TrainingPosition | None, str]:
        """Return (the position or None, the damage)."""
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            if content.pop("seal") != _seal(content):
                return None, f"{record.name} does not match its checksum"
            best = content["point"]["best"]
            position = TrainingPosition(**content["point"] | {"best": best and tuple(best)})
            for name, digest in content["sha256"].items():
                if sha256_of(self.folder / name) != digest:
                    return None, f"{name} does not match its checksum"
        except FileNotFoundError as error:
            return None, f"{Path(error.filename).name} is missing"
        except (ValueError, KeyError, TypeError, AttributeError, OSError):  # no JSON, or another structure
            return None, f"{record.name} cannot be read"
        return position, ""

    def _prune(self) -> None:
        """Keep the newest records and their files; remove records first, so that each has all its files."""
        records, needed = sorted(self.folder.glob("step-*.json")), set()
        for record in records[: -self._kept]:
            record.unlink()
        for record in records[-self._kept :]:
            with suppress(ValueError, KeyError):  # a damaged record names no files
                needed |= {Path(name).stem for name in json.loads(record.read_text(encoding="utf-8"))["sha256"]}
        for file in [*self.folder.glob("step-*"), *self.folder.glob("best-*")]:
            if file.stem not in needed:
                file.unlink()


@contextmanager
def _quiet_mindspore() -> Iterator[None]:
    """Disable the log of MindSpore 2.10, which repeats the error that it raises."""
    mindspore_log = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")  # mindspore/log.py, _setup_logger
    mindspore_log.disabled = True
    try:
        yield
    finally:
        mindspore_log.disabled = False


def _digest_of(best: Path) -> str:
    """Return the recorded SHA-256 of saved weights; raise DataError if someone removed them while the run trained."""
    try:
        return best.with_suffix(".sha256").read_text(encoding="utf-8")
    except FileNotFoundError:
        way_out = "run the same command with task.resume=auto: it trains the lost part again"
        raise DataError(f"{escape_controls(best)}: was removed while the run trained\n{way_out}") from None


def _step_of(file: Path) -> int:
    return int(file.stem.partition("-")[2])


def _seal(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
