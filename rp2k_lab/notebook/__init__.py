"""Context and cells of `notebooks/`; `python -m rp2k_lab.notebook` executes them."""

import warnings

# mlflow imports tqdm.auto, which asks for widgets in a notebook; no cell draws a bar.
warnings.filterwarnings("ignore", "IProgress not found")
