import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import boto3
import pytest
from moto.server import ThreadedMotoServer

from crawl.items import SourceItem, UnexpandedSource
from crawl.policy import FetchConfig
from crawl.source_bucket import download_object, expand_bucket
from crawl.web import Web
from infra.errors import (
    AvgenError,
    ConfigError,
    FetchTimeout,
    Gone,
    NetworkFailure,
    NotMedia,
    Private,
    RateLimited,
    SourceUnavailable,
    TooLarge,
)

FAST, PATIENT = FetchConfig(num_reconnects=0, stall_timeout_s=0.3), FetchConfig(num_reconnects=2)
ODD_KEYS = ["a b+c.mp4", "a#b?c=d.mp4", "a%20b.mp4", "ü/雨\u3000.mp4", "//x/../y.mp4", "-.mp4", "a&b<c>.mp4"]


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No AWS variable but those that a test sets."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


@pytest.fixture
def bucket(bucket_server: str, environment: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """An empty bucket of a real server; `bucket.put_object(Key=..., Body=...)`."""
    environment.setenv("AWS_ENDPOINT_URL", bucket_server)
    environment.setenv("AWS_ACCESS_KEY_ID", "key")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = boto3.resource("s3", endpoint_url=bucket_server, region_name="us-east-1")
    name = "b-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:16]
    return store.create_bucket(Bucket=name)


class Answer(NamedTuple):
    """What the scripted store says to one request; `num_sent` bytes of the body, then the connection breaks."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    num_sent: int = 10**9
    silent_s: float = 0.0


class Store:
    """A store that gives its answers one after the other and keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: deque[Answer] = deque()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()


@pytest.fixture(scope="module")
def scripted() -> Iterator[Store]:
    """One server for all tests: a client is kept for each address, and takes a while to make."""
    script = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            answer = script.answers.popleft()
            script.stopping.wait(answer.silent_s)
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(answer.body))} | dict(answer.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[: answer.num_sent])
            self.close_connection = True

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield script
    script.stopping.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(scripted: Store, environment: pytest.MonkeyPatch) -> Iterator[Store]:
    scripted.asked.clear()
    scripted.answers.clear()
    environment.setenv("AWS_ENDPOINT_URL", scripted.url)
    yield scripted
    assert not scripted.answers, "every answer must have been asked for"


def _listed(spec: str, first_index: int = 0) -> list[SourceItem | UnexpandedSource]:
    return list(expand_bucket(spec, Web(FAST, None, None, None), first_index))


def _urls(spec: str, first_index: int = 0) -> list[str]:
    found = _listed(spec, first_index)
    assert all(isinstance(source, SourceItem) for source in found)
    return [source.url for source in found]


# ---- listing ----


def test_expand_bucket_lists_media_below_the_prefix_in_order(bucket: Any) -> None:
    for key in ("v/b.mp4", "v/a/z.MKV", "v/a.txt", "v/", "video.webm", "w.mp4"):
        bucket.put_object(Key=key, Body=b"x")
    where = f"s3://{bucket.name}"
    assert _urls(f"{where}/v/") == [f"{where}/v/a/z.MKV", f"{where}/v/b.mp4"]
    assert _urls(f"{where}/v") == [f"{where}/v/a/z.MKV", f"{where}/v/b.mp4", f"{where}/video.webm"]
    assert _urls(where) == _urls(f"{where}/") == [*_urls(f"{where}/v"), f"{where}/w.mp4"]
    assert {item.kind for item in _listed(where)} == {"s3"}


def test_expand_bucket_odd_keys_are_listed_and_read(bucket: Any, tmp_path: Path) -> None:
    for key in ODD_KEYS:
        bucket.put_object(Key=key, Body=key.encode())
    urls = _urls(f"s3://{bucket.name}")
    assert sorted(urls) == sorted(f"s3://{bucket.name}/{key}" for key in ODD_KEYS)
    for number, url in enumerate(urls):
        part = tmp_path / str(number)
        download_object(url, part, FAST)
        assert url.endswith(part.read_bytes().decode())


def test_expand_bucket_reads_page_by_page_and_goes_on_where_it_was(
    bucket: Any, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "5")
    for number in range(12):
        bucket.put_object(Key=f"{number:02}.mp4", Body=b"x")
    urls = _urls(f"s3://{bucket.name}")
    assert [url[-6:] for url in urls] == [f"{number:02}.mp4" for number in range(12)]
    for first_index in (0, 1, 5, 7, 12, 13):
        assert _urls(f"s3://{bucket.name}", first_index) == urls[first_index:]
    found = expand_bucket(f"s3://{bucket.name}", Web(FAST, None, None, None), 0)
    assert next(found).url == urls[0]
    bucket.Object("04.mp4").delete()
    bucket.Object("11.mp4").delete()
    assert [item.url for item in found] == urls[1:11]


def test_expand_bucket_key_that_cannot_be_stored_is_a_record(bucket: Any) -> None:
    for key in ("a\tb.mp4", "c.mp4"):
        bucket.put_object(Key=key, Body=b"x")
    refused, item = _listed(f"s3://{bucket.name}")
    assert isinstance(refused, UnexpandedSource)
    assert (refused.code, refused.item.kind) == ("blocked_by_policy", "s3")
    assert item.url == f"s3://{bucket.name}/c.mp4"


@pytest.mark.parametrize("first_index", [0, 5])
def test_expand_bucket_failure_is_one_record_of_the_prefix(first_index: int, bucket: Any) -> None:
    bucket.put_object(Key="notes.txt", Body=b"x")
    for spec, code in ((f"s3://{bucket.name}/", "not_media"), ("s3://no-such-bucket/v/", "gone")):
        (failure,) = _listed(spec, first_index)
        assert isinstance(failure, UnexpandedSource)
        assert (failure.code, failure.item.url, failure.item.kind) == (code, spec, "s3")
        assert failure.message and "\n" not in failure.message


@pytest.mark.parametrize(
    ("spec", "variables", "message"),
    [
        ("s3://", {}, "must be named s3://"),
        ("s3://a b/", {}, "must be named s3://"),
        ("gs://bucket/v/", {}, "the package gcsfs"),
        ("az://bucket/v/", {}, "the package adlfs"),
        ("s3://bucket/", {"AWS_ENDPOINT_URL": "not an address"}, r"AWS_\*"),
        ("s3://bucket/", {"AWS_PROFILE": "no-such"}, r"AWS_\*"),
        ("s3://bucket/", {"AWS_REGION": "a b"}, r"AWS_\*"),
    ],
)
def test_expand_bucket_wrong_usage_raises_config_error_when_called(
    spec: str, variables: dict[str, str], message: str, environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        expand_bucket(spec, Web(FAST, None, None, None), 0)


# ---- credentials ----

_EMPTY_LIST = b"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>"


def test_expand_bucket_without_credentials_asks_as_anyone(store: Store) -> None:
    store.answers.append(Answer(200, _EMPTY_LIST))
    _listed("s3://bucket/v/")
    ((path, headers),) = store.asked
    assert path.startswith("/bucket?") and "prefix=v%2F" in path
    assert "authorization" not in headers


def test_expand_bucket_credentials_of_the_environment_sign(
    store: Store, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "AKID")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    environment.setenv("AWS_REGION", "eu-west-7")
    store.answers.append(Answer(200, _EMPTY_LIST))
    _listed("s3://bucket/v/")
    ((_, headers),) = store.asked
    assert "Credential=AKID/" in headers["authorization"]
    assert "/eu-west-7/s3/" in headers["authorization"]
    assert "the-secret" not in str(headers)


# ---- reading ----

BODY = bytes(range(256)) * 40


def test_download_object_is_the_object(bucket: Any, tmp_path: Path) -> None:
    etag = bucket.put_object(Key="a.mp4", Body=BODY).e_tag
    found = download_object(f"s3://{bucket.name}/a.mp4", tmp_path / "part", FAST)
    assert found == (len(BODY), hashlib.sha256(BODY).hexdigest(), etag)
    assert (tmp_path / "part").read_bytes() == BODY


def test_download_object_that_is_not_there_is_gone(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(Gone, match=f"NoSuchKey.*s3://{bucket.name}/none.mp4"):
        download_object(f"s3://{bucket.name}/none.mp4", tmp_path / "part", FAST)


def _whole(**change: Any) -> Answer:
    return Answer(200, BODY, {"ETag": '"1"'})._replace(**change)


def _rest(first: int, etag: str = '"1"') -> Answer:
    headers = {"ETag": etag, "Content-Range": f"bytes {first}-{len(BODY) - 1}/{len(BODY)}"}
    return Answer(206, BODY[first:], headers)


def _download(tmp_path: Path, config: FetchConfig = FAST) -> None:
    """The object, whole, whatever the store did on the way."""
    found = download_object("s3://bucket/a.mp4", tmp_path / "part", config)
    assert found[:2] == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert (tmp_path / "part").read_bytes() == BODY


def test_download_object_broken_connection_is_resumed_from_the_same_edition(
    store: Store, tmp_path: Path
) -> None:
    store.answers += [_whole(num_sent=1000), _rest(1000)._replace(num_sent=500), _rest(1500)]
    _download(tmp_path, PATIENT)
    spans = [(headers.get("range"), headers.get("if-match")) for _, headers in store.asked]
    assert spans == [(None, None), ("bytes=1000-", '"1"'), ("bytes=1500-", '"1"')]


def test_download_object_next_call_goes_on_where_the_last_one_ended(store: Store, tmp_path: Path) -> None:
    store.answers += [_whole(num_sent=1000), _rest(1000)]
    with pytest.raises(NetworkFailure, match="1000"):
        _download(tmp_path)
    _download(tmp_path)
    assert store.asked[1][1]["range"] == "bytes=1000-"


@pytest.mark.parametrize(
    "second",
    [
        Answer(412, b"<Error><Code>PreconditionFailed</Code></Error>"),
        Answer(416, b"<Error><Code>InvalidRange</Code></Error>"),
        Answer(200, b"other" * 100, {"ETag": '"2"'}),
        _rest(1001),
    ],
    ids=["changed", "shorter", "no ranges", "other part"],
)
def test_download_object_that_changed_begins_again_and_is_never_glued(
    second: Answer, store: Store, tmp_path: Path
) -> None:
    store.answers += [_whole(num_sent=1000), second, _whole()]
    _download(tmp_path, PATIENT)
    assert "range" not in store.asked[2][1]


def test_download_object_part_of_another_object_is_not_used(store: Store, tmp_path: Path) -> None:
    store.answers += [_whole(num_sent=1000), _whole()]
    with pytest.raises(NetworkFailure):
        download_object("s3://bucket/other.mp4", tmp_path / "part", FAST)
    _download(tmp_path)
    assert "range" not in store.asked[1][1]


def test_download_object_without_etag_begins_again(store: Store, tmp_path: Path) -> None:
    store.answers += [_whole(headers={}, num_sent=1000), _whole(headers={})]
    _download(tmp_path, PATIENT)
    assert "range" not in store.asked[1][1]


def test_download_object_connection_that_breaks_ever_again_is_a_network_failure(
    store: Store, tmp_path: Path
) -> None:
    store.answers += [_whole(num_sent=1000), *(_rest(n)._replace(num_sent=1000) for n in (1000, 2000))]
    with pytest.raises(NetworkFailure, match=r"s3://bucket/a\.mp4"):
        _download(tmp_path, PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY[:3000]


@pytest.mark.parametrize(
    ("status", "code", "error_class"),
    [
        (404, "NoSuchKey", Gone),
        (404, "NoSuchBucket", Gone),
        (405, "MethodNotAllowed", Gone),
        (403, "AccessDenied", Private),
        (403, "InvalidObjectState", Private),
        (403, "SignatureDoesNotMatch", ConfigError),
        (403, "RequestTimeTooSkewed", ConfigError),
        (400, "ExpiredToken", ConfigError),
        (400, "InvalidRequest", SourceUnavailable),
        (400, "RequestTimeout", FetchTimeout),
        (429, "TooManyRequests", RateLimited),
        (503, "SlowDown", RateLimited),
        (503, "ServiceUnavailable", NetworkFailure),
        (500, "InternalError", NetworkFailure),
        (502, "", NetworkFailure),
    ],
)
def test_download_object_error_has_the_class_of_what_the_store_says(
    status: int, code: str, error_class: type[AvgenError], store: Store, tmp_path: Path
) -> None:
    body = f"<Error><Code>{code}</Code><Message>its own words</Message></Error>" if code else "<html>"
    store.answers.append(Answer(status, body.encode()))
    with pytest.raises(AvgenError) as raised:
        _download(tmp_path)
    assert raised.type is error_class
    assert ("its own words" if code else "502") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_download_object_slow_down_is_asked_again_by_the_client(store: Store, tmp_path: Path) -> None:
    store.answers += [Answer(503, b"<Error><Code>SlowDown</Code></Error>"), _whole()]
    _download(tmp_path, PATIENT)


def test_download_object_too_large_before_its_first_byte(store: Store, tmp_path: Path) -> None:
    store.answers.append(_whole())
    with pytest.raises(TooLarge, match=f"at most 100 bytes, got {len(BODY)}"):
        _download(tmp_path, FAST.model_copy(update={"max_bytes": 100}))
    assert (tmp_path / "part").read_bytes() == b""


@pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><title>no</title>"])
def test_download_object_that_is_no_media_leaves_nothing(body: bytes, store: Store, tmp_path: Path) -> None:
    store.answers.append(_whole(body=body))
    with pytest.raises(NotMedia):
        _download(tmp_path)
    assert (tmp_path / "part").read_bytes() == b""


@pytest.mark.parametrize(("silent_s", "timeout_s"), [(5.0, 60.0), (0.0, 1e-9)])
def test_download_object_silent_or_slow_store_is_a_timeout(
    silent_s: float, timeout_s: float, store: Store, tmp_path: Path
) -> None:
    store.answers.append(_whole(silent_s=silent_s))
    with pytest.raises(FetchTimeout, match=r"s3://bucket/a\.mp4"):
        _download(tmp_path, FAST.model_copy(update={"timeout_s": timeout_s}))


def test_download_object_no_store_there_is_a_network_failure(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(NetworkFailure, match=r"s3://bucket/a\.mp4"):
        _download(tmp_path)
