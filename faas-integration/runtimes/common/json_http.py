# SPDX-License-Identifier: MIT
"""JSON over HTTP for the runtimes.

waitress reads requests (chunked bodies, kept connections, bad lengths) and sends
answers. It is one package of pure Python that needs no other, so it costs a
container little memory, and it listens on Unix sockets too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import waitress
from strict_json import write
from waitress import channel, parser, server, task, trigger, wasyncore

LARGEST = 64 << 20  # bytes of a request
CONNECTIONS = 200  # at a time
LAST_WORDS = 5.0  # seconds that answers have to leave at the end
CHUNK = 512  # bytes
IDLE = 120  # seconds until a connection without a request is closed
SWEEP = 30  # seconds between looks at connections
WAKE = 3600  # where there is none: a process at rest should rest


class ListenError(Exception):
    """Requests cannot come from there."""


@dataclass(frozen=True)
class Request:
    """What came; waitress has read all of the body."""

    method: str
    path: str
    """Without the query."""
    body: bytes
    gone: Callable[[], bool]
    """Returns true once the client has closed the connection, with `notice_gone`."""


@dataclass(frozen=True)
class Reply:
    """What goes."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def reply(status: int, value: Any, **headers: str) -> Reply:
    """A reply with that value. Raises NotJsonError. Underscores in names of headers are dashes."""
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, write(value), names)


class _Threads(task.ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """Starts a thread when all are at work: mostly one is enough, and each costs memory."""

    def __init__(self) -> None:
        """No thread yet."""
        super().__init__()
        self._adding = threading.Lock()

    def add_task(self, work: Any) -> None:
        """Hands the work to a thread."""
        with self._adding:  # two that come at once need two threads
            with self.lock:
                self.queue.append(work)
                self.queue_cv.notify()
                idle = len(self.threads) - self.stop_count - self.active_count
                short = len(self.queue) > idle
            if short and len(self.threads) < CONNECTIONS:
                self.set_thread_count(len(self.threads) + 1)


def _sockets(listen: str) -> list[socket.socket]:
    """Bound sockets for unix:/path, host:port, [address]:port or :port (all addresses).

    Raises ValueError for anything else, OSError if none can be bound.
    """
    path = listen.removeprefix("unix:")
    if path != listen:
        Path(path).unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(path)
        return [bound]
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) >= 1 << 16:
        raise ValueError("it is neither unix:/path nor host:port")
    if not host:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return [socket.create_server(("", int(port)), family=family, dualstack_ipv6=both)]
    host = host.removeprefix("[").removesuffix("]")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address[:2]) for family, *_, address in found)
    return [socket.create_server(address, family=family) for family, address in addresses]


class _Parser(parser.HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """Is strict where two parsers may see different ends of a body."""

    def parse_header(self, header_plus: bytes) -> None:
        """Refuses what waitress would take for an empty body, or closes the connection."""
        super().parse_header(header_plus)
        old = "TRANSFER_ENCODING" in self.headers  # left there if the version is not 1.1
        if old or (self.chunked and "CONTENT_LENGTH" in self.headers):
            self.headers["CONNECTION"] = "close"
        if old:
            raise parser.TransferEncodingNotImplemented("Transfer-Encoding is of HTTP/1.1.")


class _Channel(channel.HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection."""

    parser_class = _Parser


class _Signals(wasyncore.file_dispatcher):  # type: ignore[misc]  # waitress has no types
    """Calls back in the loop's thread for each signal of those numbers.

    A handler in Python would have to wait for the main thread, and that may wait
    for ever: one that is about to block, in a queue or for an event, when the
    signal comes does not notice it. The handler is for the case that the program
    took the wakeup descriptor for itself, as asyncio does.

    The program may have handlers for other signals, and fork: its children have the
    handlers that were there before, and do not write here.
    """

    def __init__(self, numbers: Iterable[int], react: Callable[[], None], where: Any) -> None:
        """`where`: the loop's map. To be made in the main thread."""
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        super().__init__(reading, map=where)  # which keeps a copy of the descriptor
        os.close(reading)
        self._react = react
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._masks = threading.local()
        os.register_at_fork(
            before=self._hold, after_in_parent=self._let_go, after_in_child=self._forget
        )

    # A child that gets a signal before it has forgotten would write it to its parent, and
    # Python would lose it. So these signals wait until it has.
    def _hold(self) -> None:
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def _let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _note(self, number: int, _frame: Any) -> None:
        with contextlib.suppress(OSError):  # full, or at the end
            os.write(self._writing, bytes([number]))

    def _forget(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)
        self._let_go()

    def writable(self) -> bool:
        """It only reads."""
        return False

    def handle_read(self) -> None:
        """Some have come."""
        if not self._before.keys().isdisjoint(self.recv(CHUNK)):
            self._react()


class Server:
    """Serves a callable; a context manager."""

    def __init__(
        self, listen: str, answer: Callable[[Request], Reply], *, notice_gone: bool = False
    ) -> None:
        """Listens at once and serves inside `with`. Raises ListenError.

        `answer` is called in a thread for each request and must not raise. A client
        that closes its side has its answer nevertheless; with `notice_gone` it has none.
        """
        self._answer = answer
        self._has_signals = False
        self._threads = _Threads()
        self._map: dict[int, Any] = {}
        self._trigger = trigger.trigger(self._map)
        try:
            sockets = _sockets(listen)
        except (OSError, ValueError) as error:
            raise ListenError(f"cannot listen on {listen!r}: {error}") from error
        name = sockets[0].getsockname()
        self.port = 0 if isinstance(name, str) else int(name[1])
        """The port, also where 0 was asked for; 0 for a Unix socket."""
        waitress.create_server(
            self._application,
            map=self._map,
            _dispatcher=self._threads,
            sockets=sockets,
            connection_limit=CONNECTIONS,
            max_request_body_size=LARGEST,
            inbuf_overflow=2 * LARGEST,  # no temporary files: a container may have no room
            outbuf_overflow=2 * LARGEST,
            channel_request_lookahead=int(notice_gone),
            channel_timeout=IDLE,
            cleanup_interval=SWEEP,
            clear_untrusted_proxy_headers=True,
            ident=None,
        )
        for one in self._map.values():
            if isinstance(one, server.BaseWSGIServer):
                one.channel_class = _Channel
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Server:
        """Serves."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes all connections once the answers at work are sent, or after a while."""
        if self._has_signals:
            signal.set_wakeup_fd(-1)
        self.wait_until_sent(LAST_WORDS)
        self._threads.shutdown(timeout=LAST_WORDS)
        self._trigger.pull_trigger(lambda: wasyncore.close_all(self._map))
        self._thread.join()

    def on_signals(self, numbers: Iterable[int], react: Callable[[], None]) -> None:
        """Has `react` called when a signal comes, whatever the main thread does. Before `with`."""
        _Signals(numbers, react, self._map)
        self._has_signals = True

    def wait_until_sent(self, seconds: float) -> bool:
        """Waits until each request has its answer, no longer than that; true if so."""
        end = time.monotonic() + seconds
        while any(self._is_busy(one) for one in list(self._map.values())):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    @staticmethod
    def _is_busy(one: Any) -> bool:
        return bool(getattr(one, "requests", None) or getattr(one, "total_outbufs_len", 0))

    def _loop(self) -> None:
        while self._map:
            connected = any(isinstance(one, _Channel) for one in self._map.values())
            wasyncore.poll2(SWEEP if connected else WAKE, self._map)

    def _application(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        """What waitress calls."""
        method = environ["REQUEST_METHOD"]
        request = Request(
            method,
            environ["PATH_INFO"],
            environ["wsgi.input"].read(),
            environ.get("waitress.client_disconnected", lambda: False),
        )
        made = self._answer(request)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(made.body))}
        status = f"{made.status} {HTTPStatus(made.status).phrase}"
        start(status, [*(headers | made.headers).items()])
        return [] if method == "HEAD" else [made.body]


def listen_from_environment() -> str:
    """LISTEN, else port PORT (default 8080) of all addresses."""
    return os.environ.get("LISTEN") or f":{os.environ.get('PORT') or 8080}"
