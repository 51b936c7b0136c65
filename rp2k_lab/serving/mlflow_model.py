"""Save the exported files as a model of MLflow, a pyfunc that needs neither MindSpore nor this package."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rp2k_lab.serving import predict

if TYPE_CHECKING:  # imported where it is needed: it takes seconds
    from mlflow.models import ModelSignature

MODEL_FOLDER = "mlflow_model"
# What predict.py reads, and itself.
NETWORK_FILES = ("model.onnx", "model.json", "classes.txt", "predict.py")
# What the model runs with, pinned to the versions here.
_PACKAGES = ("mlflow", "numpy", "onnxruntime", "opencv-python-headless", "pandas")


def copy_code(folder: Path) -> None:
    """Write predict.py into an exported folder."""
    shutil.copyfile(predict.__file__, folder / "predict.py")


def save_model(exported: Path, reject: float | None) -> None:
    """Write `mlflow_model/` into an exported folder, from the files that predict.py reads.

    Args:
        reject: default of the parameter, share of known images that may be called unknown; None: 0.05.
    """
    import mlflow

    from rp2k_lab.tracking.store_file import quiet_loggers

    quiet_loggers()
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as scratch:
        network = Path(scratch) / "network"
        network.mkdir()
        for name in NETWORK_FILES:
            shutil.copyfile(exported / name, network / name)
        mlflow.pyfunc.save_model(
            exported / MODEL_FOLDER,
            python_model=str(Path(predict.__file__).with_name("model_code.py")),
            artifacts={"network": str(network)},
            signature=signature(0.05 if reject is None else reject),
            input_example=input_example(),
            pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
        )


def signature(reject: float) -> "ModelSignature":
    """Return the columns of the input and the output, and the parameters with their defaults."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import (
        AnyType,
        Array,
        ColSpec,
        DataType,
        Object,
        ParamSchema,
        ParamSpec,
        Property,
        Schema,
        TensorSpec,
    )

    number, text = DataType.double, DataType.string
    top = Object([Property("product", text), Property("probability", number)])
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.binary, "image"),
        ColSpec(AnyType(), "boxes", required=False),  # of numbers; MLflow refuses whole ones in an array of floats
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.long, "image"),
        ColSpec(Array(number), "box", required=False),
        ColSpec(text, "product", required=False),
        ColSpec(number, "probability", required=False),
        ColSpec(DataType.boolean, "known", required=False),
        ColSpec(number, "p_value", required=False),
        ColSpec(number, "score", required=False),
        ColSpec(Array(top), "top_k", required=False),
        ColSpec(Array(number), "embedding", required=False),
        ColSpec(text, "error", required=False),
    ]
    params = ParamSchema([ParamSpec("top_k", DataType.long, 5), ParamSpec("reject", number, reject)])
    return ModelSignature(Schema(inputs), Schema(outputs), params)


def input_example():
    """Return a table with a small JPEG and a box in it."""
    import pandas as pd

    pixels = np.linspace(0, 255, 32 * 24 * 3).astype(np.uint8).reshape(32, 24, 3)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    return pd.DataFrame({"image": [jpeg], "boxes": [[[4.0, 4.0, 16.0, 24.0]]]})
