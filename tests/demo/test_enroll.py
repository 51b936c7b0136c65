"""The process of task=extend: how it is started, and what is read of what it prints."""

import subprocess
from types import SimpleNamespace

import pandas as pd
import pytest

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.demo.enroll import Enrollment, enroll_product, read_printed

PRINTED = """native kernels: yes

enrolled 5 photos of 1 new product, now 9 products
  photo 1 is blurred (sharpness 0.08)
  looks like a, b (cosine 0.91): the same product?

                   share
------------------------
new products       100.0 %  5 of 5 photos
answers stolen     0

page        /somewhere/extension.html
run         resnet18_shelf_none_seed0_plus1, id 465201bc2912403b9f471c205d00dcbd
folder      /somewhere
next        python run.py task=predict
"""


def test_the_closing_lines_are_read():
    found = read_printed(PRINTED)
    assert found.run_id == "465201bc2912403b9f471c205d00dcbd"
    assert found.findings == [
        "photo 1 is blurred (sharpness 0.08)",
        "looks like a, b (cosine 0.91): the same product?",
    ]
    assert found.expected[2:] == ["new products       100.0 %  5 of 5 photos", "answers stolen     0"]


def test_an_extension_without_findings_and_expectations_is_read():
    text = "\nenrolled 1 photo of 1 new product, now 9 products\n\npage        /p.html\nrun         a, b, id 12ab\n"
    assert read_printed(text) == Enrollment("12ab", [], [])


@pytest.fixture
def extend(monkeypatch, tmp_path):
    """extend(name, code, err): enroll a product by a stand-in; it is returned with the started process."""
    started = SimpleNamespace()

    def enroll(name, code=0, err=""):
        def run(command, **options):
            started.command, started.options = command, options
            return subprocess.CompletedProcess(command, code, PRINTED, err.replace("<folder>", str(tmp_path)))

        monkeypatch.setattr(subprocess, "run", run)
        started.result = enroll_product("sqlite:///with:password@x", "a'b", name, [tmp_path / "photo 1"])
        started.table = pd.read_csv(tmp_path / "photos.csv", keep_default_na=False)
        return started

    return enroll


@pytest.mark.parametrize("name", ["../../x", 'a,"b"\'', "a\nb", "<script>", "伊利 $(id) ${oc.env:HOME}", "NA"])
def test_the_name_is_a_cell_of_a_table_alone(extend, name, tmp_path):
    started = extend(name)
    assert started.table.to_dict("list") == {"path": ["photo 1"], "label": [name]}
    assert name not in " ".join(started.command)
    assert started.command[-2:] == [r"runs='a\'b'", f"task.input='{tmp_path / 'photos.csv'}'"]
    assert "password" not in " ".join(started.command)
    assert started.options["env"]["MLFLOW_TRACKING_URI"] == "sqlite:///with:password@x"


@pytest.mark.parametrize("kind", [RequestError, DataError])
def test_what_it_refuses_is_refused_in_its_words(extend, kind):
    for place in ("<folder>/photo 1", "task.input=<folder>/photos.csv: photo 1", "task.input: photo 1"):
        with pytest.raises(kind, match=r"^photo 1: is of one color\nremove it$"):
            extend("x", kind.exit_code, f"a warning\n{place}: is of one color\nremove it\n")


def test_another_end_is_an_error_with_its_output_on_the_terminal(extend, capsys):
    with pytest.raises(RuntimeError, match="exit code -9"):
        extend("x", -9, "what it printed")
    assert "what it printed" in capsys.readouterr().err
