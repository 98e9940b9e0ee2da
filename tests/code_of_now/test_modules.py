"""Modules that no other process can find by their name, and scripts whose functions import relatively."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import textwrap
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmmap
from shmmap import pmap
from tests.helpers import run_python, run_script

SOURCE = """
    import collections, dataclasses, enum, functools, typing

    K = 2
    Pair = collections.namedtuple("Pair", "a b")

    class Typed(typing.NamedTuple):
        a: int = 3

    class Colour(enum.Enum):
        RED = 1
        BLUE = "b"

    class Base:
        def __init__(self, x):
            self.x = x

        def area(self):
            return self.x * K

    class Shape(Base):
        def area(self):
            return super().area() + 1

    class Slotted:
        __slots__ = ("x",)

    @dataclasses.dataclass
    class Record:
        a: int
        b: list = dataclasses.field(default_factory=list)

    class Failure(ValueError):
        pass

    @functools.lru_cache
    def cached(v):
        return v * K

    def make(v):
        slotted = Slotted()
        slotted.x = v
        return Pair(v, K), Typed(v), Colour.BLUE, Shape(v), Record(v), slotted

    def f(v):
        return Shape(v).area() + cached(v)

    def fail(v):
        raise Failure("as it is")
"""


def by_location(folder: Path) -> types.ModuleType:
    """As plugins are loaded, and tests by pytest's importlib mode."""
    path = folder / "elsewhere" / "edges_homeless.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(SOURCE))
    spec = importlib.util.spec_from_file_location("edges_homeless", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["edges_homeless"] = module
    spec.loader.exec_module(module)
    return module


def by_hand(folder: Path) -> types.ModuleType:
    """A module without a spec, a file or a loader."""
    module = types.ModuleType("edges_homeless")
    sys.modules["edges_homeless"] = module
    exec(textwrap.dedent(SOURCE), vars(module))
    return module


def by_finder(folder: Path) -> types.ModuleType:
    """By an importer of the program's own."""

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            if name != "edges_homeless":
                return None
            return importlib.machinery.ModuleSpec(name, self)

        def exec_module(self, module: types.ModuleType) -> None:
            exec(textwrap.dedent(SOURCE), vars(module))

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("edges_homeless")
    finally:
        sys.meta_path.remove(finder)


def removed(folder: Path) -> types.ModuleType:
    """A module whose file is gone since it was imported."""
    path = folder / "edges_homeless.py"
    path.write_text(textwrap.dedent(SOURCE))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module("edges_homeless")
        path.unlink()
        importlib.invalidate_caches()
        return module
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(params=[by_location, by_hand, by_finder, removed])
def homeless(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A module that is in `sys.modules` and on no path."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    make: Callable[[Path], types.ModuleType] = request.param
    yield make(tmp_path)
    sys.modules.pop("edges_homeless", None)


@pytest.mark.few(4)
def test_a_module_that_no_worker_can_find(homeless: Any, engine: Any) -> None:
    """C6: it is made in the worker, with all that is reached, and its classes are the caller's."""
    assert pmap(homeless.f, [1], engine=engine) == [5]
    assert pmap(lambda v: homeless.f(v), [1], engine=engine) == [5]
    homeless.K = 10
    assert pmap(lambda v: homeless.Shape(v).area(), [1], engine=engine) == [11]
    assert pmap(lambda s: s.area(), [homeless.Shape(2)], engine=engine) == [21]
    made = pmap(homeless.make, [1], engine=engine)[0]
    assert [type(each) for each in made] == [
        *(homeless.Pair, homeless.Typed, homeless.Colour),
        *(homeless.Shape, homeless.Record, homeless.Slotted),
    ]
    assert made[0] == (1, 10)
    assert made[2] is homeless.Colour.BLUE
    assert made[4] == homeless.Record(1)
    with pytest.raises(homeless.Failure, match="as it is"):
        pmap(homeless.fail, [1], engine=engine)


def test_a_module_in_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6: what a path entry of any kind leads to is imported."""
    path = tmp_path / "edges.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("edges_zipped.py", "K = 1\ndef f(v):\n    return v + K\n")
    monkeypatch.syspath_prepend(str(path))
    module: Any = importlib.import_module("edges_zipped")
    try:
        with shmmap.Team(1) as team:
            assert pmap(module.f, [1], engine=team) == [2]
            module.K = 5
            assert pmap(module.f, [1], engine=team) == [6]
    finally:
        del sys.modules["edges_zipped"]


MAIN = """
    import sys
    import shmmap
    from . import util

    def relative(v):
        from .util import K
        from . import util as inner
        from .deep import leaf
        return K, inner.f(v), leaf.NAME

    def plain(v):
        return util.K

    if __name__ == "__main__":
        results = []
        for start in ("clean", "fork"):
            with shmmap.Team(1, start=start) as team:
                results.append((shmmap.pmap(relative, [1], engine=team), team.submit(plain, 0).result()))
                util.K = 20
                results.append((shmmap.pmap(relative, [1], engine=team), team.submit(plain, 0).result()))
                util.K = 2
        print(results)
"""


@pytest.mark.few(1)
@pytest.mark.parametrize("how", [[], ["-m", "cProfile", "-o", "/dev/null"]])
def test_a_package_that_is_run_as_a_script(tmp_path: Path, how: list[str]) -> None:
    """C5: ``python -m pkg``, with relative imports in function bodies."""
    package = tmp_path / "pkg"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "deep" / "__init__.py").touch()
    (package / "deep" / "leaf.py").write_text("NAME = 'leaf'\n")
    (package / "util.py").write_text("K = 2\ndef f(v):\n    return v * K\n")
    (package / "__main__.py").write_text(textwrap.dedent(MAIN))
    done = run_python(*how, "-m", "pkg", cwd=tmp_path)
    before, after = "([(2, 2, 'leaf')], 2)", "([(20, 20, 'leaf')], 20)"
    assert done.stdout.splitlines()[:1] == [f"[{before}, {after}, {before}, {after}]"], done.stderr


@pytest.mark.slow
def test_pytest_in_its_importlib_mode(tmp_path: Path) -> None:
    """C6: test modules that are on no path."""
    folder = tmp_path / "checks"
    folder.mkdir()
    (folder / "test_inner.py").write_text(
        textwrap.dedent(
            """
            import shmmap
            K = 2

            def f(v):
                return v * K

            def test_it(monkeypatch):
                with shmmap.Team(1) as team:
                    assert shmmap.pmap(f, [1], engine=team) == [2]
                    monkeypatch.setattr(__import__("sys").modules[__name__], "K", 3)
                    assert shmmap.pmap(f, [1], engine=team) == [3]
                    assert shmmap.pmap(lambda v: f(v), [1], engine=team) == [3]
            """
        )
    )
    done = run_python(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("--import-mode=importlib", "checks"),
        cwd=tmp_path,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.few(1)
@pytest.mark.parametrize("entry", ["None", "3", "b'/nowhere'", "pathlib.Path('/nowhere')"])
@pytest.mark.parametrize("start", ["clean", "fork"])
def test_a_search_path_of_more_than_text(tmp_path: Path, start: str, entry: str) -> None:
    """Python ignores what is no text in ``sys.path``, and so does every map."""
    (tmp_path / "mine.py").write_text("K = 2\n\n\ndef f(v):\n    return v * K\n")
    source = f"""
        import pathlib, sys
        import shmmap

        sys.path.insert(0, {entry})
        import mine

        with shmmap.Team(1, start="{start}") as team:
            print(shmmap.pmap(mine.f, [1, 2], engine=team))
            mine.K = 10
            print(shmmap.pmap(mine.f, [1, 2], engine=team))
    """
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr) == ("[2, 4]\n[10, 20]\n", "")


def test_modules_with_type_variables(tmp_path: Path) -> None:
    """A4. Kind: values of a module that have attributes of their own, which only C code can get at."""
    (tmp_path / "generic.py").write_text(
        """
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
FACTOR = 2


class Scaled(Generic[T]):
    def apply(self, value: T) -> T:
        return value * FACTOR


def scale(value):
    return Scaled[int]().apply(value)
"""
    )
    source = """
        import generic, shmmap

        print(shmmap.pmap(generic.scale, [1, 2]))
        generic.FACTOR = 10
        print(shmmap.pmap(generic.scale, [1, 2]))
    """
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr) == ("[2, 4]\n[10, 20]\n", "")


@pytest.mark.slow
def test_functions_that_lead_to_one_another_without_end(tmp_path: Path) -> None:
    """A4. Kind: how far a look goes: deeper than Python's own limit, and no further than is bearable."""
    n = 6000
    lines = [f"def f{i}(v):\n    return f{i + 1}(v) if v < 0 else v + {i} + K\n" for i in range(n)]
    (tmp_path / "chain.py").write_text("K = 1\n" + "\n".join(lines) + f"\ndef f{n}(v): return v\n")
    source = """
        import chain, shmmap

        print(shmmap.pmap(chain.f0, [1, 2]), shmmap.pmap(chain.f5999, [1, 2]))
        chain.K = 10
        print(shmmap.pmap(chain.f0, [1, 2]), shmmap.pmap(chain.f5999, [1, 2]))
    """
    done = run_script(tmp_path, source)
    assert done.stderr == ""
    assert done.stdout == "[2, 3] [6001, 6002]\n[11, 12] [6010, 6011]\n"
