"""What workers print, log and warn, as it comes out in the caller: in the thread that waits for the map.

`_wire.relay` has the other end, and the frames.
"""

from __future__ import annotations

import codecs
import logging
import sys
import warnings
from typing import Any

from .._wire import LOG, STDERR, STDOUT, WARNING, unpack


class Decoders:
    """Text of one worker's streams, across frames that cut a character in two."""

    def __init__(self) -> None:
        self._decoders: dict[bytes, Any] = {}

    def decode(self, kind: bytes, payload: bytes) -> str:
        """The text that is complete by now."""
        if kind not in self._decoders:
            self._decoders[kind] = codecs.getincrementaldecoder("utf-8")("replace")
        return str(self._decoders[kind].decode(payload))


def _find_logger(name: str) -> logging.Logger:
    """The logger that a record passes first on its way up, of those that have been made."""
    loggers = logging.root.manager.loggerDict
    while name:
        logger = loggers.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return logging.root


_registry: dict[Any, Any] = {}


def emit(kind: bytes, payload: bytes, decoders: Decoders) -> None:
    """Print, log or warn in the caller what a worker did; in the thread that calls the map."""
    if kind in (STDOUT, STDERR):
        stream = sys.stdout if kind == STDOUT else sys.stderr
        if stream is not None:
            stream.write(decoders.decode(kind, payload))
            stream.flush()
        return
    try:
        obj = unpack(payload)
    except Exception:
        return  # a class that exists in the worker only
    if kind == LOG:
        record = logging.makeLogRecord(obj)
        logger = _find_logger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    elif kind == WARNING:
        message, category, filename, lineno = obj
        try:
            # The registry is shared, so that "default" shows a line once, not once per worker.
            warnings.warn_explicit(message, category, filename, lineno, registry=_registry)
        except Warning:
            pass  # an "error" filter newer than the one the worker had
