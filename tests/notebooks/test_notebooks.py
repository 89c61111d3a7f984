"""Every notebook runs from top to bottom, and is committed with its outputs and nothing of the machine it ran on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=3600", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_as_it_ran(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [cell for cell in cells if "execution" in cell["metadata"]], "times of the run; clear them"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]
        text = json.dumps({kind: data for kind, data in output.get("data", {}).items() if kind != "image/png"})
        assert not re.search(r"/(tmp|home|root|Users|work)/", text + str(output.get("text", ""))), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_have_a_text_and_code_fits_the_page(path: Path) -> None:
    for cell in code_cells(path):
        assert max(map(len, "".join(cell["source"]).splitlines())) <= 100
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                assert len(output["metadata"]["image/png"]["alt"]) > 40


def test_one_thread_in_every_notebook() -> None:
    for path in NOTEBOOKS:
        assert "torch.set_num_threads(1)" in "".join(code_cells(path)[0]["source"]), path.name


def test_the_index_names_every_notebook_and_pages_name_no_other() -> None:
    names = {path.name for path in NOTEBOOKS}
    index = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\d\d_\w+\.ipynb)\)", index)) == names
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *NOTEBOOKS]:
        named = set(re.findall(r"\d\d_\w+\.ipynb", page.read_text(encoding="utf-8")))
        assert named <= names, f"{page.relative_to(ROOT)}: {named - names}"
