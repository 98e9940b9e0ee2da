"""What the documentation says is run, and what it names exists."""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shmmap
from shmmap._verbs.options import DEFAULTS
from tests.docs.snippets import blocks, find_tests

ROOT = Path(__file__).resolve().parents[2]
SNIPPETS = Path(__file__).with_name("snippets.py")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = ["shmmap", *(m.name for m in pkgutil.walk_packages(shmmap.__path__, "shmmap."))]

# A page that shows another library at work says so in a comment, and is skipped without it.
NEEDS = re.compile(r"<!-- needs: (\S+) -->")
CODE_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:src|tests|docs|examples|benchmarks|\.ci)/[\w./*-]*")
OPTION = re.compile(r"([a-z_]+)=(?!=)\S*")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def has_doctest(name: str) -> bool:
    try:
        return any(test.examples for test in find_tests(name))
    except ModuleNotFoundError as error:
        if str(error.name).startswith("shmmap"):
            raise
        return False  # the library that it is for is not installed


def prose(page: Path) -> str:
    return CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def parameters() -> set[str]:
    """The names of all parameters of all public callables."""
    names: set[str] = set()
    for name in shmmap.__all__:
        public = getattr(shmmap, name)
        methods = [m for n, m in inspect.getmembers(public, callable) if not n.startswith("_")]
        for function in [public, *(methods if inspect.isclass(public) else [])]:
            try:
                names.update(inspect.signature(function).parameters)
            except ValueError:  # what is inherited from C has no signature
                continue
    return names


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """An empty folder with the example data, where a page may write what it likes."""
    (tmp_path / "examples").mkdir()
    shutil.copytree(ROOT / "examples" / "data", tmp_path / "examples" / "data")
    return tmp_path


def run_apart(command: list[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, (
        f"{shlex.join(command)} ended with {done.returncode}\n{done.stdout}"
    )


@pytest.mark.few(3)
@pytest.mark.parametrize("module", [name for name in MODULES if has_doctest(name)])
def test_doctests(module: str, desk: Path) -> None:
    run_apart([sys.executable, str(SNIPPETS), "module", module], desk)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.stem in ("README", "tutorial") else pytest.mark.slow)
        for page in PAGES
        if any(block.language == "python" for block in blocks(page))
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_of_page(page: Path, desk: Path) -> None:
    for library in NEEDS.findall(page.read_text(encoding="utf-8")):
        pytest.importorskip(library)
    run_apart([sys.executable, str(SNIPPETS), "page", str(page)], desk)


COMMANDS = [
    (page, block.line, block.text)
    for page in PAGES
    for block in blocks(page)
    if block.language == "bash" and block.text.startswith("shmmap ")
]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("page", "line", "script"), COMMANDS, ids=[f"{page.name}:{line}" for page, line, _ in COMMANDS]
)
def test_commands_of_page(page: Path, line: int, script: str, desk: Path) -> None:
    program = desk / "bin" / "shmmap"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom shmmap._cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    for block in blocks(page):
        if block.language == "python" and (name := re.match(r"# (\w+\.py)\n", block.text)):
            (desk / name[1]).write_text(block.text)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    run_apart(["sh", "-eu", "-c", script], desk, PATH=path)


@pages
def test_links(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        file, _, anchor = target.partition("#")
        if re.match(r"https?:", target):
            continue
        linked = page.parent / file if file else page
        if not linked.exists():
            broken.append(target)
        elif anchor and anchor not in anchors(linked):
            broken.append(target)
    assert not broken


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_names(page: Path) -> None:
    """What stands in back-ticks and looks like ours, is: names, options, files."""
    known, wrong = parameters(), []
    for span in CODE_SPAN.findall(prose(page)):
        for dotted in re.findall(r"\bshmmap(?:\.\w+)+", span):
            if not resolves(dotted):
                wrong.append(dotted)
        if (option := OPTION.fullmatch(span)) and option[1] not in known:
            wrong.append(span)
        if PATH.fullmatch(span) and not list(ROOT.glob(span.rstrip("/"))):
            wrong.append(span)
        if re.fullmatch(r"_\w+\.py", span) and not (ROOT / "src/shmmap" / span).exists():
            wrong.append(span)
    assert not wrong


def resolves(dotted: str) -> bool:
    value: object = shmmap
    for name in dotted.split(".")[1:]:
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def test_files_named_in_the_source_exist() -> None:
    sources = list((ROOT / "src/shmmap").rglob("*.py"))
    names = {source.name for source in sources}
    wrong = [
        f"{source.name}: {name}"
        for source in sources
        for name in re.findall(r"`(_\w+\.py)`", source.read_text(encoding="utf-8"))
        if name not in names
    ]
    assert not wrong


def test_the_design_names_every_file() -> None:
    source = ROOT / "src/shmmap"
    files = (ROOT / "docs/design/files.md").read_text()
    listed = re.findall(r"^\| `(\S+\.py)` \|", files, re.MULTILINE)
    assert sorted(listed) == sorted(str(p.relative_to(source)) for p in source.rglob("*.py"))


def test_the_reference_names_everything_public() -> None:
    reference = "\n".join(p.read_text() for p in (ROOT / "docs/reference").glob("*.md"))
    listed = set(
        re.findall(r"auto(?:function|class|exception|data):: (?:shmmap\.)?(\w+)", reference)
    )
    assert listed == set(shmmap.__all__) - {"__version__"}
    table = (ROOT / "docs/reference/index.md").read_text()
    assert sorted(re.findall(r"^   (\w+)$", table, re.MULTILINE)) == sorted(shmmap.__all__)


def test_the_reference_names_every_option() -> None:
    table, _, _ = (ROOT / "docs/reference/options.md").read_text().partition("\n## ")
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(DEFAULTS)


def test_everything_public_has_a_docstring() -> None:
    assert [name for name in shmmap.__all__ if not getattr(shmmap, name).__doc__] == []


def test_the_readme_has_its_two_commands_and_its_generated_table() -> None:
    readme = ROOT / "README.md"
    install, test = (block.text for block in blocks(readme) if block.language == "bash")
    assert "pip install" in install and "shmmap map" in install
    assert "pip install" in test and "pytest" in test
    for page in [readme, ROOT / "docs/performance.md"]:
        text = page.read_text()
        assert text.count("<!-- against:begin -->") == text.count("<!-- against:end -->") == 1


def test_one_version() -> None:
    assert f"## {shmmap.__version__}" in (ROOT / "docs/changelog.md").read_text()
