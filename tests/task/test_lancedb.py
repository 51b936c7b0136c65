"""The recipe of docs/embeddings.md for LanceDB, with the real library in a fresh environment."""

import re
import subprocess
import sys

import numpy as np
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.analysis.embeddings import Block, write_embeddings

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def lancedb_python(tmp_path_factory):
    """The interpreter of an environment with lancedb, which needs another pyarrow than the pinned one."""
    folder = tmp_path_factory.mktemp("lancedb")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "lancedb", "pyarrow"]
    if (done := subprocess.run(pip, capture_output=True, text=True)).returncode:
        pytest.skip(f"lancedb cannot be installed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return python


def test_the_recipe_finds_the_photo_and_its_neighbors(lancedb_python, tmp_path):
    page = (PROJECT / "docs" / "embeddings.md").read_text("utf-8")
    (recipe,) = re.findall(r"### LanceDB\n.*?```python\n(.*?)```", page, re.DOTALL)
    vectors = np.random.default_rng(0).standard_normal((3000, 32), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"照片/{i}.jpg" for i in range(len(vectors))]
    block = Block(ids, ["茶", None, "可乐"] * 1000, vectors)
    write_embeddings(tmp_path / "photos.parquet", iter([block]), vectors[0], "val")
    done = subprocess.run([str(lancedb_python), "-c", recipe], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"'id': '(.+?)', 'class': (.+?), '_distance': ([-\d.e]+)", done.stdout)
    nearest = np.argsort(-(vectors @ vectors[0]))[:5]
    assert [name for name, _, _ in found] == [ids[i] for i in nearest]
    assert found[0][1] == "'茶'"
    np.testing.assert_allclose([float(d) for _, _, d in found], 1 - vectors[nearest] @ vectors[0], atol=1e-5)
