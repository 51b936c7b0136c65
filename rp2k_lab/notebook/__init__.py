"""What `notebooks/` works with: a recorded run opened again, and what its cells show; run it to execute them all."""

import warnings

# mlflow imports tqdm.auto, which within a notebook asks for widgets; no cell draws a bar.
warnings.filterwarnings("ignore", "IProgress not found")
