"""Checkpoint files: written whole or not at all."""

from pathlib import Path

import mindspore
from mindspore import nn


def save_checkpoint(net: nn.Cell, file: Path, step: int) -> None:
    """Write every parameter of `net` and the step count to `file` (`.ckpt`), replacing it in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.tmp.ckpt")  # save_checkpoint insists on the suffix
    mindspore.save_checkpoint(net, str(temporary), append_dict={"step": step})
    temporary.chmod(0o644)
    temporary.replace(file)


def load_checkpoint(net: nn.Cell, file: Path) -> int:
    """Load every parameter of `net` from `file`; returns the step count stored in it.

    Raises:
        ValueError: the file lacks parameters of `net`; names the first.
    """
    values = mindspore.load_checkpoint(str(file))
    step = int(values.pop("step").asnumpy())
    missing, _ = mindspore.load_param_into_net(net, values)
    if missing:
        raise ValueError(f"{file}: lacks {len(missing)} parameters of the network, the first is {missing[0]}")
    return step
