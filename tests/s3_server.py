"""A real S3 server for tests: moto behind a layer that can misbehave on order, and that counts what it was asked.

    with s3_server() as server:
        monkeypatch.setenv(...) for every item of server.environment
        store = open_store(server.url("bucket/prefix"))
        server.fail("slow_down", times=3, method="PUT")

It runs in a thread and answers over HTTP, so other processes may use it, too. It cannot answer a call of this
process that holds Python's lock while it waits, as a few of the Delta library do.
"""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

SECRET = "the-secret-key-of-tests"
ACCESS_KEY_ID = "the-access-key-id-of-tests"
Fault = Literal["error", "slow_down", "denied", "hang", "cut_request", "cut_answer", "lose_answer"]
"""500; 503 SlowDown; 403; no answer; the connection ends within the request's body, or within that of the answer,
or right before the answer to a request that was carried out."""

_STATUS: Mapping[str, tuple[str, str]] = {
    "error": ("500 Internal Server Error", "InternalError"),
    "slow_down": ("503 Slow Down", "SlowDown"),
    "denied": ("403 Forbidden", "SignatureDoesNotMatch"),
}
_Start = Callable[..., Any]


@dataclass(slots=True, kw_only=True)
class _Order:
    fault: Fault
    times: int
    after: int
    method: str
    key: str

    def is_due(self, method: str, key: str) -> bool:
        if self.times == 0 or self.method not in ("", method) or self.key not in key:
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


class S3Server:
    """What a test sees of the server."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """(method, path with query) -> how often it was asked."""
        self.num_answered_bytes = 0
        self._orders: list[_Order] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True, request_handler=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def url(self, path: str) -> str:
        """The URL of `bucket/prefix`; the bucket is made."""
        bucket = path.partition("/")[0]
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        if bucket not in backend.buckets:
            backend.create_bucket(bucket, "us-east-1")
        return f"s3://{path}"

    def fail(self, fault: Fault, *, times: int = 1, after: int = 0, method: str = "", key: str = "") -> None:
        """Let requests fail: `times` of those with this method and `key` in their path, once `after` went well."""
        with self._lock:
            self._orders.append(_Order(fault=fault, times=times, after=after, method=method, key=key))

    def heal(self) -> None:
        """Forget all orders and counts."""
        with self._lock:
            self._orders.clear()
            self.requests.clear()
            self.num_answered_bytes = 0

    def num_requests(self, *, method: str = "", key: str = "") -> int:
        """How many requests there were since `heal`."""
        with self._lock:
            return sum(n for (m, path), n in self.requests.items() if method in ("", m) and key in path)

    def num_unfinished_uploads(self, bucket: str) -> int:
        """Multipart uploads that were neither completed nor aborted."""
        return len(s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].multiparts)

    def close(self) -> None:
        """End; whoever hangs is let go."""
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _app(self, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        query = environ["QUERY_STRING"]
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        method = environ["REQUEST_METHOD"]
        with self._lock:
            self.requests[method, path] += 1
            fault = next((order.fault for order in self._orders if order.is_due(method, path)), None)
        answer = self._answer(fault, environ, start) if fault else self._moto(environ, start)
        for block in answer:
            self.num_answered_bytes += len(block)
            yield block

    def _answer(self, fault: Fault, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        num_bytes = int(environ.get("CONTENT_LENGTH") or 0)
        if fault in _STATUS:
            environ["wsgi.input"].read(num_bytes)
            status, code = _STATUS[fault]
            body = (
                f"<Error><Code>{code}</Code><AWSAccessKeyId>{ACCESS_KEY_ID}</AWSAccessKeyId></Error>".encode()
            )
            start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if fault == "hang":
            self._ended.wait(30)
        elif fault == "cut_request":
            environ["wsgi.input"].read(num_bytes // 2)
        else:
            whole = _Whole()
            body = b"".join(self._moto(environ, whole))
            if fault == "cut_answer":
                start(whole.status, whole.headers)
                return _half(body, environ)
        return _half(b"", environ)


class _Whole:
    """Keeps what an application would have begun its answer with."""

    status = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __call__(self, status: str, headers: list[tuple[str, str]], _: object = None) -> None:
        self.status, self.headers = status, tuple(headers)


def _half(body: bytes, environ: dict[str, Any]) -> Iterator[bytes]:
    """Half of an answer, then the end of the connection."""
    if body:
        yield body[: len(body) // 2]
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


class _Handler(MotoRequestHandler):
    def log_request(self, *_: object) -> None:
        pass

    def log_error(self, *_: object) -> None:
        pass


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server on a free port, until the end of the block."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    try:
        yield server
    finally:
        server.close()
