"""Figures that need a fresh interpreter for every sample, as the programs a user would write."""

from __future__ import annotations

HEAD = """\
import numpy as np
{imports}

def norm(row):
    return float(row @ row)
{extra}
if __name__ == "__main__":
    x = np.ones(({rows}, 1024))
    workers = {workers}
{body}
    assert len(r) == len(x) and r[-1] == 1024.0, r
"""

COLD: dict[str, tuple[str, str, str]] = {
    "serial": ("", "", "r = np.array([norm(row) for row in x])"),
    "shmmap": ("import shmmap", "", "r = shmmap.pmap(norm, x)"),
    "shmmap-fork": ("import shmmap", "", 'r = shmmap.pmap(norm, x, engine="fork")'),
    "bare": (
        "import mmap, os",
        "",
        """
y = np.frombuffer(mmap.mmap(-1, 8 * len(x)))
tickets = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
def work():
    while (stop := os.lseek(tickets, 64, os.SEEK_CUR)) < len(x) + 64:
        y[stop - 64:stop] = [norm(row) for row in x[stop - 64:stop]]
pids = []
for _ in range(workers):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
r = y
""",
    ),
    "pool": (
        "from multiprocessing import Pool\nfrom multiprocessing.shared_memory import SharedMemory",
        """
def attach(inside, outside, shape):
    global i, o, xs, ys
    i, o = SharedMemory(inside), SharedMemory(outside)
    xs, ys = np.ndarray(shape, "f8", i.buf), np.ndarray(shape[:1], "f8", o.buf)

def rows(start, stop):
    ys[start:stop] = [norm(row) for row in xs[start:stop]]
""",
        """
i, o = SharedMemory(create=True, size=x.nbytes), SharedMemory(create=True, size=8 * len(x))
np.copyto(np.ndarray(x.shape, x.dtype, i.buf), x)
with Pool(workers, attach, (i.name, o.name, x.shape)) as pool:
    pool.starmap(rows, [(s, min(s + 256, len(x))) for s in range(0, len(x), 256)])
r = np.ndarray(len(x), "f8", o.buf).copy()
i.unlink(); o.unlink()
""",
    ),
    "ppe": (
        "from concurrent.futures import ProcessPoolExecutor",
        "",
        """
with ProcessPoolExecutor(workers) as executor:
    r = np.array(list(executor.map(norm, x, chunksize=max(1, len(x) // (32 * workers)))))
""",
    ),
    "tpe": (
        "from concurrent.futures import ThreadPoolExecutor",
        "",
        """
def rows(start):
    return [norm(row) for row in x[start:start + 256]]
with ThreadPoolExecutor(workers) as executor:
    r = np.concatenate(list(executor.map(rows, range(0, len(x), 256))))
""",
    ),
    "joblib": (
        "from joblib import Parallel, delayed",
        "",
        "r = np.array(Parallel(n_jobs=workers)(delayed(norm)(row) for row in x))",
    ),
    "joblib-threads": (
        "from joblib import Parallel, delayed",
        "",
        'r = np.array(Parallel(n_jobs=workers, prefer="threads")(delayed(norm)(row) for row in x))',
    ),
    "mpire": (
        "from mpire import WorkerPool",
        """
def row(x, index):
    return norm(x[index])
""",
        """
with WorkerPool(workers, shared_objects=x) as pool:
    r = np.array(pool.map(row, range(len(x))))
""",
    ),
    "dask-threads": (
        "import dask.array",
        """
def rows(chunk):
    return np.array([norm(row) for row in chunk])
""",
        """
lazy = dask.array.from_array(x, chunks=(256, 1024)).map_blocks(rows, drop_axis=1, dtype="f8")
r = lazy.compute(scheduler="threads", num_workers=workers)
""",
    ),
    "dask-processes": (
        "import dask.array",
        """
def rows(chunk):
    return np.array([norm(row) for row in chunk])
""",
        """
lazy = dask.array.from_array(x, chunks=(256, 1024)).map_blocks(rows, drop_axis=1, dtype="f8")
r = lazy.compute(scheduler="processes", num_workers=workers)
""",
    ),
    "ray": (
        "import ray",
        """
@ray.remote
def rows(x, start):
    return [norm(row) for row in x[start:start + 256]]
""",
        """
ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
stored = ray.put(x)
r = np.concatenate(ray.get([rows.remote(stored, start) for start in range(0, len(x), 256)]))
""",
    ),
    "numba": (
        "from numba import njit, prange",
        """
@njit(parallel=True)
def norms(x, y):
    for i in prange(len(x)):
        y[i] = (x[i] * x[i]).sum()
""",
        """
r = np.empty(len(x))
norms(x, r)
""",
    ),
}

IMPORTS = {
    "shmmap": "shmmap",
    "pool": "multiprocessing.pool",
    "ppe": "concurrent.futures.process",
    "joblib": "joblib",
    "mpire": "mpire",
    "dask-threads": "dask.array",
    "ray": "ray",
    "numba": "numba",
}


IDLE = """\
import os, re, time
from pathlib import Path
{imports}

def half(value):
    return value / 2

def switches():
    \"""Of this process but for the thread that sleeps here, and of all it has started.\"""
    parents = {{}}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    ours = {{os.getpid()}}
    while more := {{pid for pid, parent in parents.items() if parent in ours}} - ours:
        ours |= more
    tasks = (task for pid in ours for task in Path(f"/proc/{{pid}}/task").iterdir())
    return sum(
        int(count)
        for task in tasks
        if task.name != str(os.getpid())
        for count in re.findall(r"ctxt_switches:\\s*(\\d+)", (task / "status").read_text())
    )

if __name__ == "__main__":
    {warm}
    time.sleep({settle})
    before = switches()
    time.sleep({seconds})
    print(switches() - before)
    {end}
"""

IDLERS = {
    "shmmap": ("import shmmap", "shmmap.pmap(half, range(100), workers={n})", ""),
    "pool": (
        "from multiprocessing import Pool",
        "pool = Pool({n}); pool.map(half, range(100))",
        "pool.terminate()",
    ),
}


def script(scenario: str, peer: str, workers: int, smoke: bool) -> str | None:
    """The program; None if this peer has none. ``import`` and ``idle`` print their own figure."""
    if scenario == "idle":
        if peer not in IDLERS:
            return None
        imports, run, end = IDLERS[peer]
        return IDLE.format(
            imports=imports,
            warm=run.format(n=workers),
            end=end,
            settle=0.1 if smoke else 1,
            seconds=0.1 if smoke else 10,
        )
    if scenario == "import":
        if peer not in IMPORTS:
            return None
        return (
            "import numpy, time\n"
            "start = time.perf_counter()\n"
            f"import {IMPORTS[peer]}\n"
            "print(time.perf_counter() - start)\n"
        )
    if peer not in COLD:
        return None
    imports, extra, body = COLD[peer]
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    return HEAD.format(
        imports=imports, extra=extra, body=indented, workers=workers, rows=64 if smoke else 8192
    )
