"""Checkpoint files: written whole or not at all."""

from collections.abc import Collection
from pathlib import Path

import mindspore
from mindspore import nn


def save_checkpoint(net: nn.Cell, file: Path, step: int, leave_out: Collection[str] = ()) -> None:
    """Write the parameters of `net` and the step count to `file` (`.ckpt`), replacing it in one move.

    Args:
        leave_out: names of parameters that are not written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.tmp.ckpt")  # save_checkpoint insists on the suffix
    kept = [{"name": p.name, "data": p} for p in net.get_parameters() if p.name not in leave_out]
    mindspore.save_checkpoint(kept, str(temporary), append_dict={"step": step})
    temporary.chmod(0o644)
    temporary.replace(file)


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
