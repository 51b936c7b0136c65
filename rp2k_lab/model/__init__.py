"""The model zoo: `create_model(name, num_classes, **options)`, `list_models()`, `load_torch_weights(net, state)`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rp2k_lab.model.network import Network
    from rp2k_lab.model.normalize import Front, Normalize, Rest, WithPreprocessing
    from rp2k_lab.model.weights.torch_names import load_torch_weights
    from rp2k_lab.model.zoo import create_model, list_models

_MODULES = {
    "Front": "normalize",
    "Network": "network",
    "Normalize": "normalize",
    "Rest": "normalize",
    "WithPreprocessing": "normalize",
    "create_model": "zoo",
    "list_models": "zoo",
    "load_torch_weights": "weights.torch_names",
}


def __getattr__(name: str) -> Any:
    """Import an export on first use: the options of the networks are below this package and import fast."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Front",
    "Network",
    "Normalize",
    "Rest",
    "WithPreprocessing",
    "create_model",
    "list_models",
    "load_torch_weights",
]
