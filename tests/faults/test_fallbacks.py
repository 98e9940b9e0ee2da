"""Fault 34: no ``/proc``, no pidfd, no memfd, no reservation, no ``/dev/shm``: what is left holds."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

import pytest

from shmmap.testing import wait_until
from tests.helpers import is_alive, process_tree, start_script

from .common import COMMON, run_program


@pytest.mark.slow
class Test34Fallbacks:
    """No ``/proc``, no pidfd, no memfd, no reservation, no ``/dev/shm``: what is left holds."""

    USE = """
    for start in ("clean", "fork"):
        with shmmap.Team(workers=2, start=start) as team:
            works(engine=team)
            x = shmmap.asshared(np.arange(1 << 18))
            got = shmmap.pmap_chunks(np.negative, x, engine=team)
            assert (got == -np.arange(1 << 18)).all()
            try:
                shmmap.pmap(lambda i: os.kill(os.getpid(), 9), np.arange(4), engine=team)
            except shmmap.WorkerDied as error:
                assert "SIGKILL" in str(error) or "unknown" in str(error), error
                assert error.failed, error
            else:
                raise AssertionError("nothing died")
            works(engine=team)
    works(engine="fork")
    works()
    """

    # Patched before anything is imported, in the caller and, by a site directory, in the template.
    MISSING: dict[str, str] = {  # noqa: RUF012 - constant
        "pidfd": """
            import os, signal
            del os.pidfd_open
            del signal.pidfd_send_signal
        """,
        "memfd": """
            import os
            del os.memfd_create
        """,
        "fallocate": """
            import os
            del os.posix_fallocate
        """,
        "shm": """
            import os, _posixshmem
            def shm_open(*args, **options):
                raise OSError(38, "Function not implemented")
            _posixshmem.shm_open = shm_open
        """,
        "shm and memfd": """
            import os, _posixshmem
            del os.memfd_create
            def shm_open(*args, **options):
                raise OSError(38, "Function not implemented")
            _posixshmem.shm_open = shm_open
        """,
        "proc": """
            import builtins, io, os
            real_open, real_listdir, real_exists, real_os_open = (
                open, os.listdir, os.path.exists, os.open)
            def hidden(path):
                return isinstance(path, str) and path.startswith("/proc")
            def refuse(real):
                def call(path, *args, **options):
                    if hidden(path):
                        raise FileNotFoundError(2, "No such file or directory", path)
                    return real(path, *args, **options)
                return call
            builtins.open = io.open = refuse(real_open)
            os.listdir, os.open = refuse(real_listdir), refuse(real_os_open)
            os.path.exists = lambda path: not hidden(path) and real_exists(path)
        """,
    }

    @pytest.mark.parametrize("what", MISSING)
    def test_maps_and_deaths(self, tmp_path: Path, what: str) -> None:
        """Also in the template and the workers, which load the same ``sitecustomize``."""
        (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(self.MISSING[what]))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        printed = run_program(
            tmp_path,
            f"import sitecustomize\nassert sitecustomize.__file__ == {str(tmp_path)!r} + "
            "'/sitecustomize.py'\n" + textwrap.dedent(self.USE) + "\nprint('held')",
            env=os.environ | {"PYTHONPATH": path},
        )
        assert printed == "held\n"

    @pytest.mark.parametrize("what", ["pidfd", "proc"])
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_lifelines_need_none_of_them(self, tmp_path: Path, what: str, start: str) -> None:
        """SIGKILL of the caller: no worker outlives it, GIL held or not."""
        (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(self.MISSING[what]))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        script = start_script(
            tmp_path,
            COMMON
            + textwrap.dedent(
                """
                from shmmap.testing import HoldGil
                running = shmmap.zeros(2, bool)
                hold = HoldGil(20)
                def busy(i):
                    running[i] = True
                    wait_until(running.all)
                    if i == 0:
                        print("running", flush=True)
                    hold(i)
                team = shmmap.Team(workers=2, start=sys.argv[1])
                shmmap.pmap(busy, np.arange(2), engine=team, chunksize=1)
                """
            ),
            start,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert script.stdout is not None and script.stderr is not None
        assert script.stdout.readline() == "running\n"
        tree = process_tree(script.pid)
        try:
            script.kill()
            wait_until(lambda: not any(map(is_alive, tree)), 2)
        finally:
            for pid in filter(is_alive, tree):
                os.kill(pid, signal.SIGKILL)
            script.wait()
            script.stdout.close()
            script.stderr.close()
