"""What workers print, log and warn, on its way to the caller.

A message is one frame on the worker's relay socket, which keeps message limits: the worker's token, a byte
for the kind, the call's sequence number, the payload. The worker counts its messages in its claim slot, so
that the caller can tell that nothing is under way before a map returns.
"""

from __future__ import annotations

import io
import logging
import socket
import struct
import sys
import warnings
from typing import Any

from .._system.forks import make_lock
from .claims import RELAYED, RUNNING
from .results import pack_result

STDOUT, STDERR, LOG, WARNING, LOST_WRITE = b"o", b"e", b"l", b"w", b"c"
_HEADER = struct.Struct("<cq")
# A socket takes about 200 KB, one message at most that; smaller ones start to flow earlier.
_PIECE = 1 << 15


class Relay:
    """The worker's end. *Requires*: `slot` is this worker's claim slot."""

    def __init__(self, sock: socket.socket, slot: memoryview, token: bytes) -> None:
        self._sock = sock
        self._token = token
        self._slot = slot
        self._lock = make_lock()

    def send(self, kind: bytes, payload: bytes) -> None:
        """Send one message; it waits if the caller is far behind."""
        header = self._token + _HEADER.pack(kind, self._slot[RUNNING])
        with self._lock:
            for at in range(0, len(payload), _PIECE):
                try:
                    self._sock.sendall(header + payload[at : at + _PIECE])
                except OSError:
                    return  # the caller has gone
                self._slot[RELAYED] += 1

    def install(self) -> None:
        """Redirect this process's output, log records and warnings."""
        sys.stdout = _text_stream(self, STDOUT, 1)
        sys.stderr = _text_stream(self, STDERR, 2)
        # Where records go, and which, is for the caller's loggers to say, once the records are there.
        for logger in logging.root.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                logger.handlers.clear()
                logger.filters.clear()
                logger.propagate, logger.disabled = True, False
        logging.root.handlers[:] = [_Handler(self)]

        def showwarning(
            message: object, category: object, filename: str, lineno: int, *_: object, **__: object
        ) -> None:
            self.send_object(WARNING, (message, category, filename, lineno))

        warnings.showwarning = showwarning

    def send_object(self, kind: bytes, obj: Any) -> None:
        """Send something pickled, or nothing if it does not pickle into one message."""
        try:
            data = pack_result(obj)
        except Exception:
            return
        if len(data) <= _PIECE:
            self.send(kind, data)

    def flush(self) -> None:
        """Send what the streams still hold."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass  # replaced by user code with something that is broken


class _Raw(io.RawIOBase):
    def __init__(self, relay: Relay, kind: bytes, fd: int) -> None:
        self._relay = relay
        self._kind = kind
        self._fd = fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        payload = bytes(data)
        self._relay.send(self._kind, payload)
        return len(payload)

    def fileno(self) -> int:
        return self._fd


def _text_stream(relay: Relay, kind: bytes, fd: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(relay, kind, fd), _PIECE),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


class _Handler(logging.Handler):
    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        # As logging.handlers.QueueHandler: what does not pickle is put into the message first.
        record.message = record.getMessage()
        record.msg, record.args = record.message, None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        self._relay.send_object(LOG, record.__dict__)


def parse(frame: bytes) -> tuple[bytes, int, bytes]:
    """``kind, seq, payload`` of a frame without its token."""
    kind, seq = _HEADER.unpack_from(frame)
    return kind, seq, frame[_HEADER.size :]
