"""Words that people bring from elsewhere, and what to write here instead.

Keywords of joblib, `multiprocessing`, `concurrent.futures`, dask, datasets and SciPy, names that a module
like this one might have, and calls in the shape that those libraries want. Everything here makes the text
of an error, and is imported when there is one.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from typing import Any

_OURS = {
    "workers": (
        "n_jobs njobs processes n_processes num_processes max_workers n_workers num_workers nworkers "
        "num_proc nprocs nproc ncores n_cores cores num_cpus n_threads num_threads threads"
    ),
    "engine": "backend executor pool scheduler prefer",
    "progress": "verbose progress_bar show_progress progressbar tqdm use_tqdm desc",
    "rng": "seed random_state random_seed",
    "chunksize": "chunk_size chunks_size batch_size batchsize blocksize block_size",
    "retries": "retry max_retries n_retries",
    "buffersize": "pre_dispatch prefetch buffer_size max_tasks_active",
    "dtype": "output_dtype output_dtypes",
    "axis": "in_axes axes",
}
_FOREIGN = {word: ours for ours, words in _OURS.items() for word in words.split()}
_ENGINES = {
    "fork": "fork",
    "threading": "threads",
    "threads": "threads",
    "sequential": "serial",
    "sync": "serial",
    "serial": "serial",
}
"""For any other it is ``"processes"``."""
_OTHERWISE = {
    "drop_axis": "write nothing: the shape of a result is that of what the function returns",
    "new_axis": "write nothing: the shape of a result is that of what the function returns",
    "meta": "write nothing, or dtype=: what a result is like is seen from the first one",
    "block_info": "shmmap.current() tells the function where it is",
    "block_id": "shmmap.current() tells the function where it is",
    "callback": "write future.add_done_callback(callback), with the future that wait=False or submit gives",
    "error_callback": "write future.add_done_callback(callback), which asks for future.exception()",
    "maxtasksperchild": "a team takes memory_limit=, or is started anew now and then",
    "max_tasks_per_child": "a team takes memory_limit=, or is started anew now and then",
    "mp_context": 'a team takes start="clean" or start="fork"',
}
"""For keywords of elsewhere that have no counterpart here."""
_OF_TEAM = frozenset(
    "start initializer initargs blas_threads memory_limit preload idle_timeout".split()
)

_ATTRIBUTES = {
    "Pool": "with shmmap.Team(workers=4) as team: ..., or just shmmap.pmap(func, x), which keeps workers",
    "ThreadPool": 'shmmap.pmap(func, x, engine="threads")',
    "ProcessPoolExecutor": "shmmap.Team(workers=4), which is a concurrent.futures.Executor",
    "ThreadPoolExecutor": 'shmmap.pmap(func, x, engine="threads")',
    "Executor": "shmmap.Team(workers=4), which is a concurrent.futures.Executor",
    "map": "shmmap.pmap(func, x)",
    "starmap": "shmmap.pmap(func, xs, ys), or shmmap.pmap(func, *zip(*pairs))",
    "imap": "shmmap.pmap(func, x, wait=False).in_order()",
    "imap_unordered": "shmmap.pmap(func, x, wait=False).as_completed()",
    "map_async": "shmmap.pmap(func, x, wait=False)",
    "starmap_async": "shmmap.pmap(func, xs, ys, wait=False)",
    "apply": "shmmap.Team().submit(func, *args).result()",
    "apply_async": "shmmap.Team().submit(func, *args)",
    "submit": "shmmap.Team().submit(func, *args)",
    "Parallel": "shmmap.pmap(func, x)",
    "delayed": "shmmap.pmap(func, x), which takes the function itself",
    "parallel_config": "with shmmap.config(workers=4): ...",
    "parallel_backend": 'with shmmap.config(engine="threads"): ...',
    "reduce": "shmmap.preduce(func, x)",
    "map_blocks": "shmmap.pmap_chunks(func, x)",
    "map_overlap": "shmmap.pmap_chunks(func, x, depth=1)",
    "vmap": "shmmap.pmap(func, x)",
    "array": "shmmap.asshared(a)",
    "asarray": "shmmap.asshared(a)",
    "SharedMemory": "shmmap.zeros(shape), or shmmap.adopt(shm, shape, dtype) for one that is there",
    "Array": "shmmap.zeros(shape)",
}


def short_repr(value: object, most: int = 40) -> str:
    """A value as it would be written, or ``...`` where that is long, or fails."""
    name = getattr(value, "__name__", "")
    if isinstance(name, str) and name.isidentifier():
        return name
    try:
        text = repr(value)
    except Exception:  # the user's own
        return "..."
    is_code = len(text) <= most and "\n" not in text and text[:1] != "<"
    return text if is_code and " at 0x" not in text.lower() else "..."


def explain_keyword(name: str, value: object, takes: Collection[str], place: str = "") -> str:
    """What to write instead of a keyword that is none; `takes`: those that there are.

    `place` is what was called, such as ``"Team"``, if that is no verb.
    """
    ours = _FOREIGN.get(name)
    if ours in takes:
        assert ours is not None
        return f"{name!r} is no keyword of {place or 'this library'}: write {_as_ours(ours, value)}"
    if name in _OTHERWISE:
        return f"{name!r} is no keyword of {place or 'this library'}: {_OTHERWISE[name]}"
    if place:
        close = difflib.get_close_matches(name, takes, 1, 0.8)
        guess = f"did you mean {close[0]!r}? " if close else ""
        return f"{place} takes no {name!r}: {guess}It takes {', '.join(takes)}"
    if name in _OF_TEAM:
        return (
            f"{name!r} is for a team: with shmmap.Team({name}={short_repr(value)}) as team: ..., and "
            "engine=team here"
        )
    if name == "args" and isinstance(value, tuple):
        bound = ", ".join(map(short_repr, value))
        return f"'args' is no option: write functools.partial(func{bound and ', '}{bound})"
    if name in ("kwargs", "kwds") and isinstance(value, Mapping):
        bound = "".join(f", {key}={short_repr(each)}" for key, each in value.items())
        return f"{name!r} is no option: write functools.partial(func{bound})"
    close = difflib.get_close_matches(name, takes, 1, 0.8)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"{name!r} is not an option{guess}; an argument for the function goes through "
        f"functools.partial(func, {name}={short_repr(value)})"
    )


def _as_ours(ours: str, value: object) -> str:
    """The option as it would be written here for a value of elsewhere."""
    if ours == "workers":
        is_count = type(value) is int and (value > 0 or value == -1)
        return f"workers={value if is_count else 4}"
    if ours == "engine":
        if isinstance(value, Executor):
            return "engine=, which takes the executor as it is"
        engine = _ENGINES.get(value, "processes") if isinstance(value, str) else "processes"
        return f"engine={engine!r}, a shmmap.Team or a concurrent.futures.Executor"
    if ours == "progress":
        return f"progress={value!r}" if isinstance(value, str) else "progress=True"
    if ours == "rng":
        return f"rng={short_repr(value)}, which gives the function a numpy.random.Generator as keyword rng"
    return f"{ours}={short_repr(value)}"


def explain_attribute(name: str) -> str | None:
    """What to write instead of an attribute of the module that is not there; None if nothing is known."""
    return _ATTRIBUTES.get(name)


def explain_no_function(func: object, inputs: tuple[object, ...], verb: str) -> str:
    """What to write where the first argument of a verb is no function."""
    what = f"the first argument is the function, and a {type(func).__name__} is not callable"
    function = next(filter(callable, inputs), None)
    if function is not None:
        name = getattr(function, "__name__", "func")
        return f"{what}: the function comes first, as in {verb}({name}, x)"
    task = func[0] if isinstance(func, (list, tuple)) and func else None
    if isinstance(task, tuple) and len(task) in (2, 3) and callable(task[0]):
        name = getattr(task[0], "__name__", "func")
        return f"{what}: give the function and what it is called with apart, {verb}({name}, x)"
    if inspect.isgenerator(func):
        return (
            f"{what}: instead of delayed(f)(v) for v in x, give the function and what it is called with "
            f"apart, {verb}(f, x)"
        )
    if isinstance(func, str):
        return f"{what}: give the function itself, not its name"
    return what


def explain_rng(func: Any) -> str | None:
    """Why a function cannot be given ``rng=``, if its signature can be seen and has no such parameter."""
    code = getattr(func, "__code__", None)
    if code is not None:  # most functions, a hundred times quicker
        named = code.co_argcount + code.co_kwonlyargcount
        if "rng" in code.co_varnames[code.co_posonlyargcount : named]:
            return None
    try:
        # A decorator's function takes what it takes, which may be other than what it says to take.
        parameters = inspect.signature(func, follow_wrapped=code is None).parameters
    except (TypeError, ValueError):
        return None
    for each in parameters.values():
        if each.kind is each.VAR_KEYWORD or (
            each.name == "rng" and each.kind is not each.POSITIONAL_ONLY
        ):
            return None
    text = (
        "rng= gives the function a numpy.random.Generator as keyword argument 'rng', and "
        f"{getattr(func, '__name__', type(func).__name__)}({', '.join(parameters)}) has no such parameter: "
    )
    like = [
        name for name in parameters if _FOREIGN.get(name) == "rng" or name in ("generator", "gen")
    ]
    if like:
        return f"{text}rename {like[0]!r} to 'rng'"
    return f"{text}add it"
