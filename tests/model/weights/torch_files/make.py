"""Write the files beside this one with PyTorch itself.  Run by hand: `python tests/model/weights/torch_files/make.py`.

Needs torch (2.13 wrote the files), which is no dependency of the project, numpy and safetensors.  The values are
seeded; the storage keys of the legacy format are addresses, so those files differ from run to run.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

FOLDER = Path(__file__).parent


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("nothing", torch.zeros(0, 3))

    def forward(self, images):
        return self.scale * self.head(self.norm(self.conv(images)).mean((2, 3)))


# The legacy format copies a module's source and its path into the file, if it finds them.
Bare = type("Bare", (nn.Module,), {"__module__": __name__})


def types() -> dict[str, torch.Tensor]:
    """Return a tensor of every type and every layout in a storage."""
    flat = torch.randn(24)
    marked = torch.randn(3)
    marked.origin = "an attribute of the tensor"
    signed = {f"int{bits}": [-3, 0, 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)}
    return {
        "double": torch.randn(2, 3, dtype=torch.float64),
        "half": torch.randn(2, 3).half(),
        "bfloat16": torch.randn(2, 3).bfloat16(),
        "bfloat16_scalar": torch.tensor(-1.5).bfloat16(),
        **{name: torch.tensor(values, dtype=getattr(torch, name)) for name, values in signed.items()},
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "transposed": torch.randn(3, 5).T,
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "every_second": torch.randn(9)[1::2],
        "shared": flat.view(4, 6),
        "shared_part": flat[6:12],
        "expanded": torch.randn(3, 1).expand(3, 7),
        "parameter": nn.Parameter(torch.randn(2)),
        "with_attribute": marked,
    }


def training(net: Net) -> dict:
    """Return the checkpoint of a training script: the weights among other entries."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "best_acc": np.float64(76.5),
        "args": argparse.Namespace(lr=0.1, data=Path("somewhere"), names={"a", "b"}, device=torch.device("cpu")),
        "means": np.float32([0.1, 0.2]),
        "state_dict": nn.DataParallel(net).state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        1: "not everything stands under a text",
    }


def arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the arrays that the reader is expected to return."""
    plain = {name.removeprefix("module."): x.detach() for name, x in tensors.items()}
    return {name: (x.float() if x.is_floating_point() else x).numpy() for name, x in plain.items()}


def main():
    torch.manual_seed(0)
    net = Net()
    net.norm.running_mean.normal_()
    content = {"net": net.state_dict(), "types": types(), "training": training(Net())}
    for name, saved in content.items():
        torch.save(saved, FOLDER / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    content["types"]["uint16"] = torch.tensor([0, 65535], dtype=torch.uint16)  # the legacy format has no such storage
    for name, saved in content.items():
        torch.save(saved, FOLDER / f"{name}.pth")
    save_file({name: x.clone().contiguous() for name, x in content["types"].items()}, FOLDER / "types.safetensors")
    expected = content | {"training": content["training"]["state_dict"]}
    flat = {f"{name}/{key}": array for name, tensors in expected.items() for key, array in arrays(tensors).items()}
    np.savez_compressed(FOLDER / "expected.npz", **flat)

    torch.save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), FOLDER / "module.pth")
    bare = Bare()
    bare.weight = nn.Parameter(torch.ones(2))
    with warnings.catch_warnings():
        # The source of Bare is not found on purpose; TorchScript is deprecated, but its files still exist.
        warnings.simplefilter("ignore")
        torch.save(bare, FOLDER / "module_legacy.pth", _use_new_zipfile_serialization=False)
        torch.jit.script(nn.Identity()).save(FOLDER / "script.pt")


if __name__ == "__main__":
    main()
