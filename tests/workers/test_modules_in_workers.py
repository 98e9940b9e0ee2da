"""Which modules workers have: those that functions need, bounded as is said, and those of ``preload=``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import shmmap
from tests.helpers import run_script

Team = shmmap.Team


class TestModulesInWorkers:
    """What workers import, and what comes of it."""

    @pytest.mark.parametrize("options", ["start='fork'", "blas_threads=2"])
    def test_libraries_that_a_function_loads_are_bounded(
        self, tmp_path: Path, options: str
    ) -> None:
        done = run_script(
            tmp_path,
            f"""
            import shmmap

            def load(i):
                import scipy.linalg  # brings a BLAS of its own

            def threads(i):
                import threadpoolctl
                return sorted(pool["num_threads"] for pool in threadpoolctl.threadpool_info())

            with shmmap.Team(workers=1, {options}) as team:
                for func in (load, threads):
                    told = shmmap.pmap(func, [0], engine=team)
                print(len(told[0]), set(told[0]))
            """,
        )
        bound = 2 if "2" in options else 1
        assert (done.stderr, done.stdout) == ("", f"2 {{{bound}}}\n")

    def test_only_what_is_needed(self, tmp_path: Path) -> None:
        (tmp_path / "plain.py").write_text("def half(x):\n    return x / 2\n")
        done = run_script(
            tmp_path,
            """
            import sys
            import numpy as np, shmmap, plain

            def loaded(_):
                return sorted({"numpy.ma", "threadpoolctl"} & set(sys.modules))

            x = shmmap.asshared(np.arange(1000.0))
            with shmmap.Team(workers=1) as team:
                for out in (None, shmmap.empty(1000)):
                    assert shmmap.pmap(plain.half, x, out=out, engine=team).sum() == 249750
                    assert shmmap.pmap_chunks(plain.half, x, out=out, engine=team).sum() == 249750
                assert shmmap.preduce(np.sum, x, engine=team) == 499500
                print(shmmap.pmap(loaded, [0], engine=team), loaded(0))
            """,
        )
        assert (done.stderr, done.stdout) == ("", "[[]] []\n")


class TestPreload:
    """What the clean process imports before it forks."""

    def test_workers_have_it(self, capfd: Any) -> None:
        def loaded() -> tuple[bool, bool]:
            return "wave" in sys.modules, "colorsys" in sys.modules

        with shmmap.Team(workers=1) as team:
            assert team.submit(loaded).result(30) == (False, False)
        with shmmap.Team(workers=1, preload=["wave", "no_such_module", "colorsys"]) as team:
            assert team.submit(loaded).result(30) == (True, True)
        assert "preload='no_such_module' could not be imported" in capfd.readouterr().err

    def test_nonsense_is_refused(self) -> None:
        for wrong in ("wave", [1]):
            with pytest.raises(TypeError, match="preload"):
                shmmap.Team(workers=1, preload=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="preload"):
            shmmap.Team(workers=1, preload=["wave"], start="fork")
