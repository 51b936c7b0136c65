"""The exported network as a model of MLflow; MLflow runs this file when it loads the model."""

from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ProductModel(PythonModel):
    """Photos to products.

    The input has a column `image`, bytes of an image file (base64 over HTTP), and may have a column `boxes`, a list of
    boxes [x, y, width, height] in the image [pixels].  The output has a row for each image or box, with the keys of
    `Recognizer` in predict.py; its columns `image` and `box` tell which.
    """

    def load_context(self, context):
        """Load the network."""
        folder = Path(context.artifacts["network"])
        # By its path: a process that loads two versions of a model would get the first one's module by its name.
        module = ModuleType("exported_predict")
        module.__file__ = str(folder / "predict.py")
        SourceFileLoader(module.__name__, module.__file__).exec_module(module)
        self.recognize = module.Recognizer(folder)

    def predict(self, context, model_input: pd.DataFrame, params=None):  # without the type MLflow warns
        """Return a table of products; see the class."""
        params = params or {}
        images = list(model_input["image"])
        boxes = None
        if "boxes" in model_input:
            # An absent list is None, or NaN after pandas.
            boxes = [None if value is None or isinstance(value, float) else value for value in model_input["boxes"]]
        rows = self.recognize(images, boxes, params.get("top_k", 5), params.get("reject"))
        for row in rows:
            row["box"] = None if row["box"] is None else [float(value) for value in row["box"]]
            row["embedding"] = None if row["embedding"] is None else row["embedding"].tolist()
            row["top_k"] = row["top_k"] and [{"product": name, "probability": p} for name, p in row["top_k"]]
        return pd.DataFrame(rows, dtype=object)  # None stays None


set_model(ProductModel())
