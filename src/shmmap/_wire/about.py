"""What a control block says of its map to those who look from outside (`sight`): sizes, verb and function.

Written for every map, so it is made of parts that are there already: the name of a function is packed with
the function.
"""

from __future__ import annotations

from collections.abc import Mapping

About = tuple[int, int, int, bytes]
"""Items, items in a chunk, index of the first, and the text: `ABOUT_NBYTES` of verb and function."""

_VERB_NBYTES, _LABEL_NBYTES = 16, 240
ABOUT_NBYTES = _VERB_NBYTES + _LABEL_NBYTES


def _pad(text: str, nbytes: int) -> bytes:
    return text.encode(errors="replace")[:nbytes].ljust(nbytes, b"\0")


VERBS: Mapping[str, bytes] = {
    "items": _pad("pmap", _VERB_NBYTES),
    "chunks": _pad("pmap_chunks", _VERB_NBYTES),
    "ranges": _pad("pmap_ranges", _VERB_NBYTES),
}
"""By `Job.verb`, as the text has it."""
VERB_FOLDING = _pad("preduce", _VERB_NBYTES)
"""The same for a reduction, of whatever verb its job is."""


def label_of(func: object) -> bytes:
    """A function's name, as the text has it."""
    try:
        while hasattr(func, "func") and not hasattr(func, "__qualname__"):  # functools.partial
            func = func.func
        name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    except Exception:  # of an object that answers for itself what it has
        name = None
    # No `repr`: an object with large arrays would take long for it, and not be read.
    return _pad(name if isinstance(name, str) else type(func).__qualname__, _LABEL_NBYTES)


def read_text(text: bytes) -> tuple[str, str]:
    """Verb and function."""
    return _unpad(text[:_VERB_NBYTES]), _unpad(text[_VERB_NBYTES:])


def _unpad(data: bytes) -> str:
    # A name that was too long may have been cut within a letter.
    return data.rstrip(b"\0").decode(errors="ignore")
