"""The crawl as a whole: listing, turns, pauses, retries, budgets and what the lake says of them."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.errors import ConfigError
from infra.storage import exclusive
from pipeline.block_sources import block_sources
from pipeline.catalog import Catalog
from pipeline.feed import Feed
from pipeline.funnel import read_funnel, require_complete
from pipeline.ingest import plan_ingest, plan_retry
from pipeline.list_sources import Lister
from pipeline.run_record import start_run
from tests.crawl.web import Limit, Site
from tests.pipeline.crawl_process import crawl, run_plan

NO_PATIENCE = "fetch.patience_s=0"
ONCE = ("fetch.max_attempts=1", NO_PATIENCE)


def list_file(folder: Path, *urls: str) -> str:
    path = folder / "urls.txt"
    path.write_text("\n".join(urls))
    return f"list:{path}"


def rows(root: Path, query: str) -> list[dict]:
    return Catalog(root).query(query).to_pylist()


# ---- politeness ----


def test_crawl_keeps_below_the_limit_of_a_host_that_bans(tmp_path: Path) -> None:
    site = Site(tmp_path, limit=Limit(requests_per_s=20.0, burst=2.0))
    site.start()
    spec = list_file(tmp_path, *(site.url(f"/bytes/100/{number}.mp4") for number in range(30)))
    crawl(spec, tmp_path / "root", "fetch.requests_per_s=15", *ONCE)
    site.stop()
    codes = Counter(row["code"] for row in rows(tmp_path / "root", "from outcomes"))
    assert codes == {"undecodable": 30}
    assert site.num_requests.total() == 31  # With robots.txt.


def test_crawl_429_pauses_the_host_for_all_and_nothing_is_lost(own_site: Site, tmp_path: Path) -> None:
    root, refused = tmp_path / "root", "/~status=429,first=1,after=7/bytes/100/a.mp4"
    others = [f"/bytes/100/{number}.mp4" for number in range(5)]
    spec = list_file(tmp_path, *map(own_site.url, (refused, *others)))
    recipe_id = crawl(spec, root, "fetch.connections_per_host=1")
    assert {row["code"] for row in rows(root, "from outcomes")} == {"undecodable"}
    asked = {path: num for path, num in own_site.num_requests.items() if path != "/robots.txt"}
    assert asked == {refused: 2} | dict.fromkeys(others, 1)
    log = [request for request in own_site.log if request.path != "/robots.txt"]
    first = next(index for index, request in enumerate(log) if request.path == refused)
    # A lower bound that the host has set: no other address is asked, either.
    assert log[first + 1].time_s - log[first].time_s >= 7.0
    (pause,) = rows(root, "from hosts")
    assert (pause["host"], pause["code"]) == ("127.0.0.1", "rate_limited")
    require_complete(read_funnel(Catalog(root), recipe_id))


def test_crawl_bot_check_leaves_the_host_alone_and_the_rest_pending(own_site: Site, tmp_path: Path) -> None:
    root = tmp_path / "root"
    urls = [own_site.url(f"/bot-check/words/{number}.mp4") for number in range(40)]
    recipe_id = crawl(list_file(tmp_path, *urls), root, NO_PATIENCE)
    funnel = read_funnel(Catalog(root), recipe_id)
    require_complete(funnel)
    num_asked = sum(own_site.num_requests[f"/bot-check/words/{number}.mp4"] for number in range(40))
    assert 1 <= num_asked <= 8  # Those that were under way when the host said so.
    (failed,) = funnel.failed_hosts
    assert (failed.code, failed.num_sources, failed.num_to_retry) == ("bot_check", num_asked, num_asked)
    assert funnel.stages[0].num_pending == 40 - num_asked
    (pause,) = Catalog(root).paused_hosts(now_s=datetime.now(UTC).timestamp())
    assert (pause.host, pause.code) == ("127.0.0.1", "bot_check")
    before = own_site.num_requests.total()
    crawl(list_file(tmp_path, *urls), root, NO_PATIENCE)
    assert own_site.num_requests.total() == before  # A new run knows of the pause.


# ---- failures ----


def test_crawl_permanent_failures_are_not_tried_again_and_passing_ones_are(
    own_site: Site, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    spec = list_file(
        tmp_path, own_site.url("/status/404.mp4"), own_site.url("/~status=500,first=2/bytes/9/a.mp4")
    )
    crawl(spec, root)
    crawl(spec, root)
    asked = {path: num for path, num in own_site.num_requests.items() if path != "/robots.txt"}
    assert asked == {"/status/404.mp4": 1, "/~status=500,first=2/bytes/9/a.mp4": 3}
    attempts = rows(
        root, "select attempt, next_retry_at is null as last from failures where code = 'network' order by 1"
    )
    assert attempts == [{"attempt": 1, "last": False}, {"attempt": 2, "last": False}]


def test_crawl_gives_up_after_max_attempts_and_retry_tries_again(own_site: Site, tmp_path: Path) -> None:
    root, path = tmp_path / "root", "/~status=500,first=3/bytes/9/a.mp4"
    spec = list_file(tmp_path, own_site.url(path), own_site.url("/status/404.mp4"))
    crawl(spec, root, "fetch.max_attempts=2")
    crawl(spec, root, "fetch.max_attempts=2")
    assert own_site.num_requests[path] == 2
    run_plan(plan_retry(str(root), "network", ["fetch.patience_s=0", "fetch.max_attempts=9"]))
    assert own_site.num_requests[path] == 3
    run_plan(plan_retry(str(root), "network", ["fetch.max_attempts=9"]))
    assert own_site.num_requests[path] == 4
    assert own_site.num_requests["/status/404.mp4"] == 1
    with pytest.raises(ConfigError, match="got 'network'; classes that failed: gone, undecodable"):
        plan_retry(str(root), "network", [])
    with pytest.raises(ConfigError, match="settings of fetch and media only"):
        plan_retry(str(root), "gone", ["filters.snr_db.min=3"])


def test_retry_of_a_feed_that_could_not_be_listed_lists_it(own_site: Site, tmp_path: Path) -> None:
    root = tmp_path / "root"
    crawl(own_site.url("/later.xml"), root)
    assert rows(root, "select stage, code from outcomes") == [{"stage": "expand", "code": "gone"}]
    items = f'<item><title>a</title><enclosure url="{own_site.url("/bytes/9/a.mp4")}"/></item>'
    feed = f'<?xml version="1.0"?><rss version="2.0"><channel><title>f</title>{items}</channel></rss>'
    own_site.pages["/later.xml"] = ("application/rss+xml", feed.encode())
    run_plan(plan_retry(str(root), "gone", []))
    assert [row["code"] for row in rows(root, "from outcomes")] == ["undecodable"]


# ---- budgets ----


def test_crawl_budget_of_items_ends_the_run_and_the_next_goes_on(own_site: Site, tmp_path: Path) -> None:
    root = tmp_path / "root"
    spec = list_file(tmp_path, *(own_site.url(f"/bytes/100/{number}.mp4") for number in range(10)))
    recipe_id = crawl(spec, root, "fetch.budget_items=4", "fetch.connections_per_host=1")
    assert read_funnel(Catalog(root), recipe_id).stages[0].num_pending == 6
    crawl(spec, root)
    assert {num for path, num in own_site.num_requests.items() if path != "/robots.txt"} == {1}
    assert len(rows(root, "from outcomes")) == 10


def test_crawl_begins_nothing_while_the_disk_is_almost_full(own_site: Site, tmp_path: Path) -> None:
    root = tmp_path / "root"
    spec = list_file(tmp_path, own_site.url("/bytes/100/a.mp4"))
    crawl(spec, root, f"fetch.min_free_bytes={10**15}", NO_PATIENCE)
    assert own_site.num_requests == {}
    assert rows(root, "from outcomes") == []


# ---- the door ----


def test_crawl_one_video_in_several_spellings_and_lists_is_fetched_once(
    own_site: Site, tmp_path: Path
) -> None:
    url = own_site.url("/bytes/100/a.mp4")
    spellings = [
        url,
        url.upper().replace("/BYTES/100/A.MP4", "/bytes/100/a.mp4"),
        f"{url}?utm_source=x",
        f"{url}#t=1",
    ]
    crawl(list_file(tmp_path, *spellings), tmp_path / "root")
    crawl(list_file(tmp_path, url.replace("/a.mp4", "/%61.mp4")), tmp_path / "root")
    assert own_site.num_requests["/bytes/100/a.mp4"] == 1


def test_crawl_what_is_blocked_is_not_asked_for(own_site: Site, tmp_path: Path) -> None:
    root, urls = tmp_path / "root", [own_site.url(f"/bytes/100/{name}.mp4") for name in "ab"]
    root.mkdir()
    assert block_sources(root, "asked to", url=urls[:1], channel=[], id=[], sha256=[]) == 1
    assert block_sources(root, "again", url=urls[:1], channel=[], id=[], sha256=[]) == 0
    crawl(list_file(tmp_path, *urls), root)
    messages = {
        row["url"]: row["message"] for row in rows(root, "from outcomes join sources using (source_id)")
    }
    assert "asked to" in messages[urls[0]]
    assert own_site.num_requests["/bytes/100/a.mp4"] == 0
    assert own_site.num_requests["/bytes/100/b.mp4"] == 1
    with pytest.raises(ConfigError, match="something to block must be named"):
        block_sources(root, "x", url=[], channel=[], id=[], sha256=[])


# ---- listing ----


def test_lister_that_was_stopped_goes_on_after_its_last_page(own_site: Site, tmp_path: Path) -> None:
    """What the first run listed and did not fetch is queued by the second one, and listed once in the lake."""
    root, address = tmp_path / "root", own_site.url("/feed/5000.xml")
    plan = plan_ingest([f"feed:{address}"], str(root), "demo", ["fetch.allow_private=true"])
    with exclusive(root):
        for _ in range(2):
            run = start_run(root, "ingest", recipe_id=plan.recipe.recipe_id, settings_json="{}")
            feed = Feed(plan.recipe.fetch, root)
            from crawl.web import Web

            web = Web.opened(plan.recipe.fetch)
            lister = Lister(plan.specs, web=web, run=run, feed=feed)
            lister.start()
            assert lister.has_ended(timeout_s=60)
            lister.finish()
            web.close()
            assert (lister.num_added, feed.standing().num_waiting) == (5000, 5000)
    assert rows(root, "select count(*) as n, count(distinct source_id) as d from sources") == [
        {"n": 5000, "d": 5000}
    ]


# ---- secrets ----

SECRETS = ("cookie-value-5f1c", "netrc-password-77ab", "proxy-password-90ee", "url-password-13cd")


def test_crawl_no_secret_is_in_any_artefact(own_site: Site, tmp_path: Path) -> None:
    host = "127.0.0.1"
    cookie = f"# Netscape HTTP Cookie File\n{host}\tFALSE\t/\tFALSE\t0\tsession\t{SECRETS[0]}\n"
    own_site.proxy_login = f"user:{SECRETS[2]}"
    for name, text in (
        ("cookies.txt", cookie),
        ("netrc", f"machine {host} login user password {SECRETS[1]}\n"),
        ("proxies.txt", f"http://user:{SECRETS[2]}@{host}:{own_site.port}\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    urls = [
        own_site.url("/bytes/100/a.mp4"),
        own_site.url("/to?url=ftp://h/x"),
        own_site.url("/status/401.mp4"),
        own_site.url("/text.html"),
        f"http://user:{SECRETS[3]}@{host}:{own_site.port}/bytes/100/b.mp4",
    ]
    own_site.pages["/text.html"] = ("text/html", f"<html><title>{SECRETS[0]}</title></html>".encode())
    root = tmp_path / "root"
    crawl(
        list_file(tmp_path, *urls),
        root,
        f"fetch.cookies_path={tmp_path / 'cookies.txt'}",
        f"fetch.netrc_path={tmp_path / 'netrc'}",
        f"fetch.proxies_path={tmp_path / 'proxies.txt'}",
        *ONCE,
    )
    assert len(rows(root, "from sources")) == 5
    seen = {request.cookies for request in own_site.log}
    assert any(SECRETS[0] in cookies for cookies in seen), "the crawl must have used them"
    found = [(path, secret) for path in root.rglob("*") if path.is_file() for secret in leaks(path)]
    assert found == []


def leaks(path: Path) -> list[str]:
    """The secrets that a file of the root holds, as bytes or in the rows of a table."""
    content = path.read_bytes()
    texts = [content.decode("latin-1")]
    if path.suffix == ".parquet":
        texts.append(str(pq.read_table(path).to_pylist()))
    return [secret for secret in SECRETS if any(secret in text for text in texts)]
