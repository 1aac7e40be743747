#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""runtimes/http: the contracts of Knative and of-watchdog, and requests and answers of all kinds.

The same function runs on the real functions-framework.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import support
from faas import platforms
from faas.client import Client

json_http: Any = sys.modules["json_http"]  # that of faas.platforms
SERVER = str(platforms.RUNTIMES / "http" / "server.py")

# Answers with what the event names; all but "echo" are no JSON, or are raised.
ODD = """
import decimal, multiprocessing, os, signal, sys, threading, time
class Mute(Exception):
    def __str__(self):
        raise ValueError
class Angry(Exception):
    def __str__(self):
        raise KeyboardInterrupt
    __repr__ = __str__
class Thread(dict):
    def items(self):
        return [("main", threading.current_thread() is threading.main_thread())]
class Odd(dict):
    def __bool__(self):
        return True
    def items(self):
        raise OSError("odd")
def handler(event):
    kind = event.get("kind", "echo")
    if kind == "decimal":
        return {"score": decimal.Decimal("0.5")}
    if kind == "nan":
        return {"score": float("nan")}
    if kind == "bytes":
        return {"data": b"x"}
    if kind == "key":
        return {(1, 2): 3}
    if kind == "circle":
        circle = []
        circle.append(circle)
        return {"circle": circle}
    if kind == "deep":
        deep = []
        for _ in range(100000):
            deep = [deep]
        return {"deep": deep}
    if kind == "odd":
        return Odd(a=1)
    if kind == "exit":
        sys.exit(3)
    if kind == "mute":
        raise Mute
    if kind == "angry":
        raise Angry
    if kind == "closed":
        sys.stderr.close()
        raise RuntimeError("closed")
    if kind == "code":
        sys.exit(Angry())
    if kind == "thread":
        return Thread(a=1)
    if kind == "slow":
        time.sleep(0.5)
    if kind == "signal":
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.raise_signal(signal.SIGALRM)
    if kind == "terminate":
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join()
        return {"code": child.exitcode}
    if kind == "fork":
        return {"child": os.fork()}
    if kind == "wait":
        return {"code": os.waitpid(event["child"], 0)[1]}
    return {"got": event}
"""
# Sends SIGTERM to a thread that is not the main one, once that has nothing to do.
SIGNALLING = """
import signal, threading
def send():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
def handler(event):
    threading.Timer(0.5, send).start()
    return {"soon": True}
"""
# What stands in the way of a start, and a word of what is said.
STARTS: tuple[tuple[tuple[str, ...], dict[str, str], str], ...] = (
    (("/nowhere",), {}, "there is no directory /nowhere"),
    (("{folder}", "nope"), {}, "'nope' is not module.callable"),
    (("{folder}", "nope.handler"), {}, "no module 'nope' in "),
    (("{folder}", "function.nope"), {}, "has no function 'nope'"),
    (("{folder}",), {"LISTEN": "x"}, "cannot listen on 'x': it is neither"),
    (("{folder}",), {"PORT": "x"}, "cannot listen on ':x': it is neither"),
    (("{folder}",), {"LISTEN": "unix:/nowhere/socket"}, "No such file"),
)
NOT_JSON = ("decimal", "nan", "bytes", "key", "circle", "deep", "odd")


class ContractTest(support.RuntimeCase):
    """What the platforms ask of the server."""

    def test_what_stands_in_the_way_of_a_start(self) -> None:
        """One line; what the function's own code raises keeps its traceback."""
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / "function.py"
            code.write_text("def handler(event):\n    return event\n")
            for words, variables, said in STARTS:
                arguments = [word.format(folder=folder) for word in words]
                done = subprocess.run(
                    [platforms.PYTHON, SERVER, *arguments],
                    env=os.environ | variables,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    check=False,
                )
                self.assertEqual(done.returncode, 1, (arguments, variables, done.stderr))
                self.assertIn(said, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            code.write_text("import no_such_module\n")
            done = subprocess.run(
                [platforms.PYTHON, SERVER, folder], capture_output=True, text=True, check=False
            )
            self.assertIn("function.py", done.stderr)
            self.assertIn("No module named 'no_such_module'", done.stderr)

    def test_requests_through_the_wrapper(self) -> None:
        """The wrapper is started with the server's command."""
        with platforms.Http(self.text, [str(self.wrapper)]) as platform:
            self.check_answers(platform)
        self.assertIn("server.py", self.witness.read_text())

    def test_failure_has_type_and_message(self) -> None:
        """And the server lives on."""
        with platforms.Http(self.own) as platform:
            for _ in range(2):
                with self.assertRaisesRegex(platforms.PlatformError, "HTTP 500: as asked for"):
                    platform.ask({})

    def test_health_lock_and_graceful_end(self) -> None:
        """SIGTERM lets the request at work be answered; exit status 0, no lock left."""
        self.write_function(
            "import pathlib, time\n"
            "def handler(event):\n"
            "    pathlib.Path(event['began']).touch()\n"
            "    time.sleep(1)\n"
            "    return {'done': True}\n"
        )
        path, lock = self.directory / "socket", self.directory / "lock"
        began = self.directory / "began"
        variables = {**os.environ, "LISTEN": f"unix:{path}", "upstream_lock": str(lock)}
        process = subprocess.Popen([sys.executable, SERVER, self.directory], env=variables)
        self.addCleanup(process.kill)
        client = Client(path, 30)
        self.assertTrue(client.wait_ready(30, lambda: process.poll() is None))
        self.assertEqual(client.get("/_/health"), 200)
        self.assertEqual(client.get("/nowhere"), 404)
        answers: list[Any] = []
        event = {"began": str(began)}
        threads = [
            threading.Thread(target=lambda: answers.append(client.ask(event))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        self.wait_for(began)
        self.assertEqual(client.get("/_/health"), 200)  # while requests are at work and wait
        self.assertTrue(lock.exists())
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        self.assertEqual(answers[0], {"done": True})
        self.assertEqual(process.wait(30), 0)
        self.assertFalse(lock.exists())

    def test_a_signal_while_the_main_thread_blocks(self) -> None:
        """Does not wait for it: another thread gets the signal here, as it may happen."""
        self.write_function(SIGNALLING)
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
        variables = {**os.environ, "LISTEN": f"127.0.0.1:{port}"}
        variables["upstream_lock"] = str(self.directory / "lock")
        process = subprocess.Popen([sys.executable, SERVER, self.directory], env=variables)
        self.addCleanup(process.kill)
        self.wait_for(self.directory / "lock")
        self.assertEqual(platforms.post(port, "/", {}, 30), {"soon": True})
        self.assertEqual(process.wait(10), 0)

    def test_a_port_alone(self) -> None:
        """Is that of all IPv4 and IPv6 addresses."""
        if not socket.has_dualstack_ipv6():
            self.skipTest("no IPv6 here")
        with platforms.Http(self.text) as platform:
            for host in ("127.0.0.1", "::1"):
                self.assertEqual(self._status(host, platform.port), 200, host)

    def test_an_address_and_a_port(self) -> None:
        """A name may have several addresses."""
        if not socket.has_dualstack_ipv6():
            self.skipTest("no IPv6 here")
        for listen, host in (
            ("[::1]", "::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("localhost", "127.0.0.1"),
        ):
            with socket.create_server(("", 0)) as held:
                port = held.getsockname()[1]
            process = subprocess.Popen(
                [sys.executable, SERVER, str(self.text.directory)],
                env={**os.environ, "LISTEN": f"{listen}:{port}"},
            )
            self.addCleanup(process.wait)
            self.addCleanup(process.terminate)
            self.assertEqual(self._status(host, port), 200, listen)

    def _status(self, host: str, port: int) -> int:
        end = time.monotonic() + 30
        while True:
            connection = http.client.HTTPConnection(host, port, timeout=10)
            try:
                connection.request("HEAD", "/healthz?probe=1")
                return connection.getresponse().status
            except ConnectionRefusedError:
                self.assertLess(time.monotonic(), end, f"nothing at {host} {port}")
                time.sleep(0.05)
            finally:
                connection.close()

    def test_idle_connections_are_closed(self) -> None:
        """Also where nothing else happens; as many as may be would keep all others out."""
        with (
            mock.patch.multiple(json_http, IDLE=0.2, SWEEP=0.2),
            json_http.Server("127.0.0.1:0", lambda _: json_http.reply(200, {})) as server,
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
        ):
            self.assertEqual(connection.recv(1), b"")

    def test_wrong_address_is_refused(self) -> None:
        """With the reason, before anything is served."""
        for listen in ("nowhere", "localhost:http", "127.0.0.1:99999"):
            done = subprocess.run(
                [sys.executable, SERVER, str(self.text.directory)],
                env={**os.environ, "LISTEN": listen},
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual(done.returncode, 1)
            self.assertIn("is neither unix:/path nor host:port", done.stderr)


class RequestsTest(support.RuntimeCase):
    """Requests as clients and proxies send them, and as attackers do."""

    def setUp(self) -> None:
        """A server with a function that answers with the event, or oddly."""
        super().setUp()
        self.write_function(ODD)
        self.platform = self.enterContext(platforms.Http(self.own))

    def _talk(self, request: bytes) -> list[tuple[int, Any]]:
        """Status and JSON of all answers on one connection, which the last request closes."""
        answers = []
        with socket.create_connection(("127.0.0.1", self.platform.port), timeout=30) as connection:
            connection.sendall(request)
            file = connection.makefile("rb")
            while line := file.readline():
                headers = http.client.parse_headers(file)
                body = file.read(int(headers["Content-Length"]))
                kind = headers.get_content_type()
                answers.append(
                    (int(line.split()[1]), json.loads(body) if kind.endswith("json") else body)
                )
        return answers

    @staticmethod
    def _post(body: bytes, *headers: str, close: bool = True) -> bytes:
        lines = ["POST / HTTP/1.1", "Host: x", *headers, *(["Connection: close"] if close else [])]
        if not any("Length" in line or "Transfer" in line for line in headers):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def test_chunked_body(self) -> None:
        """As of-watchdog sends it."""
        body = b'3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'
        answers = self._talk(self._post(body, "Transfer-Encoding: chunked"))
        self.assertEqual(answers, [(200, {"got": {"a": 1}})])

    def test_body_of_a_get_is_no_request(self) -> None:
        """It would be one of somebody else's, behind a proxy that keeps connections."""
        hidden = self._post(b'{"hidden":1}', close=False)
        get = f"GET /_/health HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden)}\r\n\r\n"
        answers = self._talk(get.encode() + hidden + self._post(b'{"a":2}'))
        self.assertEqual(answers, [(200, {"status": "ok"}), (200, {"got": {"a": 2}})])

    def test_chunks_of_an_old_client_are_refused(self) -> None:
        """HTTP/1.0 has none: they would be taken for the next request, or be lost."""
        hidden = self._post(b'{"hidden":1}')
        head = "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        answers = self._talk(head.encode() + hidden)
        self.assertEqual([status for status, _ in answers], [501])

    def test_chunks_with_a_length_are_the_last(self) -> None:
        """A proxy that read the length sees another request behind them."""
        body = b"0\r\n\r\n" + self._post(b'{"hidden":1}')
        both = ("Content-Length: 5", "Transfer-Encoding: chunked")
        self.assertEqual(self._talk(self._post(body, *both, close=False)), [(200, {"got": {}})])

    def test_a_client_that_closes_its_side(self) -> None:
        """Waits for the answer."""
        with socket.create_connection(("127.0.0.1", self.platform.port), timeout=30) as connection:
            connection.sendall(self._post(b'{"kind":"slow"}'))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").read()
        self.assertIn(b'{"got": {"kind": "slow"}}', answer)

    def test_a_function_keeps_what_it_answers(self) -> None:
        """So the text is written before the next call, in the same thread."""
        self.assertEqual(self.platform.ask({"kind": "thread"}), {"main": True})

    def test_signals_and_children_of_a_function(self) -> None:
        """Do not end the server; its handlers are not those of the children."""
        self.platform.ask({"kind": "signal"})
        self.assertEqual(self.platform.ask({"kind": "terminate"}), {"code": -signal.SIGTERM})
        child = self.platform.ask({"kind": "fork"})["child"]
        self.assertGreater(child, 0)
        self.assertEqual(self.platform.ask({"kind": "wait", "child": child}), {"code": 0})

    def test_wrong_lengths_are_refused(self) -> None:
        """Where a proxy may read another number than the server."""
        for length in ("1_4", "+14", "-1", "0x0e", "14, 15", ""):
            answers = self._talk(self._post(b'{"t":"123456"}', f"Content-Length: {length}"))
            self.assertEqual([status for status, _ in answers], [400], repr(length))

    def test_too_much_is_refused(self) -> None:
        """Before it is read."""
        answers = self._talk(self._post(b"", f"Content-Length: {1 << 40}"))
        self.assertEqual([status for status, _ in answers], [413])

    def test_what_is_no_event_is_refused(self) -> None:
        """With the reason; half an emoji is an event."""
        deep = b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}"
        for body, status, text in (
            (b"[1]", 400, "must be a JSON object"),
            (b"{", 400, "not JSON"),
            (b'{"a":"\xff"}', 400, "not JSON"),
            (b'{"a":NaN}', 400, "NaN is not a JSON value"),
            (deep, 400, "too deep"),
            (b'{"a":"\\ud83d"}', 200, "\\ud83d"),
            (b"", 200, "got"),
        ):
            [(found, answer)] = self._talk(self._post(body))
            self.assertEqual(found, status, body[:20])
            self.assertIn(text, json.dumps(answer))

    def test_answers_that_json_cannot_write(self) -> None:
        """Are failures of the function, and the next request is served."""
        for kind in NOT_JSON:
            with self.assertRaisesRegex(platforms.PlatformError, "500: the answer cannot be"):
                self.platform.ask({"kind": kind})
        self.assertEqual(self.platform.ask({"a": 1}), {"got": {"a": 1}})

    def test_whatever_is_raised(self) -> None:
        """Does not end the server."""
        for kind, text in (
            ("exit", r"sys.exit\(3\)"),
            ("mute", "Mute"),
            ("angry", "Angry"),
            ("closed", "closed"),
            ("code", "SystemExit"),
        ):
            with self.assertRaisesRegex(platforms.PlatformError, f"HTTP 500: .*{text}"):
                self.platform.ask({"kind": kind})
        self.assertEqual(self.platform.ask({"a": 1}), {"got": {"a": 1}})

    def test_other_methods(self) -> None:
        """HEAD is a GET without a body; others are not there."""
        for method, path, status in (
            ("HEAD", "/_/ready", 200),
            ("GET", "/healthz?probe=1", 200),
            ("GET", "/", 404),
            ("PUT", "/", 405),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", self.platform.port, timeout=10)
            connection.request(method, path)
            response = connection.getresponse()
            self.assertEqual((method, response.status), (method, status))
            self.assertEqual(bool(response.read()), method != "HEAD")
            connection.close()


class FunctionsFrameworkTest(support.RuntimeCase):
    """The real one."""

    @classmethod
    def setUpClass(cls) -> None:
        """Gets it."""
        try:
            platforms.interpreter("functions-framework")
        except platforms.PlatformError as error:
            raise unittest.SkipTest(f"no functions-framework: {error}") from error

    def test_requests_through_the_wrapper(self) -> None:
        """The wrapper is started with the framework's command; the function is in a worker."""
        with platforms.FunctionsFramework(self.text, [str(self.wrapper)]) as platform:
            self.check_answers(platform)
            status = Path(f"/proc/{platform.pid}/status").read_text()
            self.assertNotIn(f"PPid:\t{os.getpid()}\n", status)
        self.assertIn("--target call", self.witness.read_text())


if __name__ == "__main__":
    support.main()
