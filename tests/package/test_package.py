"""What is published: the wheel and the source archive hold what they must, and no more."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import shmmap

ROOT = Path(__file__).parents[2]
NAME = f"shmmap-{shmmap.__version__}"
INFO = f"{NAME}.dist-info"
NOT_FOR_USERS = {"test", "clients", "docs", "bench", "dev", "all"}
"""Extras that are no integration with another library."""

pytestmark = pytest.mark.skipif(
    find_spec("build") is None or find_spec("hatchling") is None,
    reason="building needs build and hatchling",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel, which is made from it."""
    folder = tmp_path_factory.mktemp("dist")
    assert (
        "warning" not in run("build", "--no-isolation", "--outdir", str(folder), str(ROOT)).lower()
    )
    assert {path.name for path in folder.iterdir()} == {
        f"{NAME}.tar.gz",
        f"{NAME}-py3-none-any.whl",
    }
    return folder


def run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sources(built: Path) -> dict[str, bytes]:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None:
                found[member.name.removeprefix(f"{NAME}/")] = file.read()
        return found


def tracked(*folders: str) -> set[str]:
    """Files of the repository, or of the tree if that is none, without what tools leave."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    names = {str(path.relative_to(ROOT)) for path in paths}
    return {
        n
        for n in names
        if not re.search(r"(^|/)(__pycache__|_build|\.\w+)/|^docs/gallery/|\.pyc$|smoke\.json$", n)
    }


@pytest.fixture(scope="module")
def about(wheel: dict[str, bytes]) -> Message:
    return email.message_from_bytes(wheel[f"{INFO}/METADATA"])


def test_the_wheel_holds_the_package_alone(wheel: dict[str, bytes]) -> None:
    package = {name.removeprefix("src/") for name in tracked("src")}
    assert "shmmap/py.typed" in package
    assert {Path(name).suffix for name in package} <= {".py", ".typed", ".html", ".css", ".js"}
    info = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert set(wheel) == package | {f"{INFO}/{name}" for name in info}


def test_the_source_archive_holds_what_builds_tests_and_documents(
    sources: dict[str, bytes],
) -> None:
    folders = tracked("src", "tests", "docs", "examples", "benchmarks")
    alone = {"README.md", "LICENSE", "CITATION.cff", "SECURITY.md", "pyproject.toml"}
    made = {"PKG-INFO", ".gitignore"}
    assert set(sources) == folders | alone | made


def test_what_is_packed_is_what_is_there(
    wheel: dict[str, bytes], sources: dict[str, bytes]
) -> None:
    for name, content in wheel.items():
        if name.startswith("shmmap/"):
            assert content == sources[f"src/{name}"] == (ROOT / "src" / name).read_bytes(), name


def test_metadata(about: Message, wheel: dict[str, bytes]) -> None:
    assert about["Name"] == "shmmap"
    assert about["Version"] == shmmap.__version__
    assert about["License-Expression"] == "BSD-3-Clause"
    assert about["Requires-Python"] == ">=3.11"
    assert about["Description-Content-Type"] == "text/markdown"
    required = [name for name in about.get_all("Requires-Dist", []) if "extra ==" not in name]
    names = {re.match(r"[\w-]+", each)[0] for each in required}  # type: ignore[index]
    assert names == {"numpy", "cloudpickle", "threadpoolctl", "tqdm"}
    assert wheel[f"{INFO}/entry_points.txt"].decode().split("\n")[1] == "shmmap = shmmap._cli:main"


def test_all_names_every_integration(about: Message) -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(about.get_all("Provides-Extra", [])) == set(extras)
    (everything,) = extras["all"]
    named = set(everything.removeprefix("shmmap[").removesuffix("]").split(","))
    assert named == set(extras) - NOT_FOR_USERS


def test_twine_finds_nothing(built: Path) -> None:
    pytest.importorskip("twine")
    assert "warning" not in run("twine", "check", "--strict", *map(str, built.iterdir())).lower()


def test_citation_has_what_it_needs() -> None:
    """A version would be a second place that says it."""
    text = (ROOT / "CITATION.cff").read_text()
    keys = set(re.findall(r"^([\w-]+):", text, re.MULTILINE))
    assert keys >= {"cff-version", "message", "title", "authors", "license", "type"}
    assert "version" not in keys
