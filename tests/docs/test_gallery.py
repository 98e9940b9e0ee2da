"""The examples of the gallery run as plain scripts, and their notebooks hold the same program.

Building the documentation runs them as well, in the process of Sphinx, and checks their links.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
EXAMPLES = sorted(GALLERY.glob("plot_*.py"))

examples = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def run(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@examples
def test_an_example_is_a_script(path: Path) -> None:
    for library in ("matplotlib", "scipy", "skimage"):
        pytest.importorskip(library)
    there = set(GALLERY.iterdir())
    run([sys.executable, "-B", path], GALLERY)
    assert set(GALLERY.iterdir()) == there


def body(source: str) -> str:
    """A program without its docstring, in a form in which comments and blank lines do not count."""
    tree = ast.parse(source)
    if ast.get_docstring(tree):
        del tree.body[0]
    return ast.dump(tree)


def test_notebooks_hold_the_program_of_the_example(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_gallery")
    copies = [Path(shutil.copy(path, tmp_path)) for path in EXAMPLES]
    convert = "from sphinx_gallery.notebook import python_to_jupyter_cli as main; main()"
    # Warnings are those of the libraries of documentation.
    run([sys.executable, "-W", "ignore", "-c", convert, *copies], tmp_path)
    for path in copies:
        notebook = json.loads(path.with_suffix(".ipynb").read_text())
        assert notebook["nbformat"] == 4
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
        assert cells[0][1].startswith("\n# ")
        assert body("\n".join(text for kind, text in cells if kind == "code")) == body(
            path.read_text()
        )


@examples
def test_an_example_has_its_parts(path: Path) -> None:
    """A problem in a sentence or two, a picture, what it cost, and where there is more."""
    text = path.read_text()
    title, line, problem = (ast.get_docstring(ast.parse(text)) or "").split("\n", 2)
    assert line == "=" * len(title)
    assert 1 <= problem.strip().count(".") + problem.count("?") <= 3
    assert "plt.show()" in text
    assert "# What it cost: " in text
    assert "# More of this: :doc:`" in text


def test_there_are_some() -> None:
    assert len(EXAMPLES) >= 8
