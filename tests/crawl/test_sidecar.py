import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawl.sidecar import Sidecar, sidecar_of

MIB = 1024**2


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "Show" / "Season 1" / "My.Film.2010.mkv"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    return path


def _info(video: Path, content: object) -> None:
    path = video.with_name("My.Film.2010.info.json")
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def _nfo(video: Path, content: str | bytes, name: str = "My.Film.2010.nfo") -> None:
    (video.parent / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_sidecar_of_a_file_alone_says_nothing(video: Path) -> None:
    assert sidecar_of(video) == Sidecar()


# ---- yt-dlp ----


def test_sidecar_of_info_json(video: Path) -> None:
    _info(
        video,
        {
            "title": "Rain on\na roof ",
            "uploader": "Ü",
            "channel": "other",
            "channel_id": "UC1",
            "license": "Creative Commons Attribution",
            "upload_date": "20240229",
            "webpage_url": "https://www.youtube.com/watch?v=0B4dYTMsgHA",
            "extractor": "youtube",
            "formats": [{}],
        },
    )
    assert sidecar_of(video) == Sidecar(
        title="Rain on a roof",
        uploader="Ü",
        channel_id="UC1",
        licence="Creative Commons Attribution",
        upload_date="2024-02-29",
        webpage_url="https://www.youtube.com/watch?v=0B4dYTMsgHA",
        extractor="youtube",
    )


def test_sidecar_of_info_json_takes_the_next_best_name(video: Path) -> None:
    _info(
        video,
        {"fulltitle": "a", "channel": "b", "uploader_id": 7, "release_date": "20240101", "upload_date": None},
    )
    expected = Sidecar(title="a", uploader="b", channel_id="7", upload_date="2024-01-01")
    assert sidecar_of(video) == expected


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://user:secret@h/",
        "http://",
        "http://[",
        "//h/a",
        ["https://h/"],
    ],
)
def test_sidecar_of_info_json_address_that_may_not_be_stored_is_dropped(url: object, video: Path) -> None:
    _info(video, {"webpage_url": url, "title": "a"})
    assert sidecar_of(video) == Sidecar(title="a")


@pytest.mark.parametrize("date", ["20240230", "2024", "tomorrow", 1.5, True, {}, "٢٠٢٤٠١٠١x"])
def test_sidecar_of_info_json_no_date_is_no_date(date: object, video: Path) -> None:
    _info(video, {"upload_date": date})
    assert sidecar_of(video) == Sidecar()


def test_sidecar_of_info_json_odd_texts_are_made_storable(video: Path) -> None:
    _info(video, b'{"title": "\\ud800\\u0000 a\\u001b[31m", "uploader": "%s"}' % (b"u" * 5000))
    found = sidecar_of(video)
    assert found.title == "\\ud800 a [31m"
    assert found.uploader == "u" * 1000
    found.title.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\xfd",
        b'{"title": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b'{"title": "a"}' + b" " * 16 * MIB,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_sidecar_of_broken_info_json_says_so_and_leaves_the_nfo(content: bytes, video: Path) -> None:
    _info(video, content)
    _nfo(video, "<movie><title>Film</title></movie>")
    found = sidecar_of(video)
    assert found.title == "Film"
    assert found.problem.startswith("a sidecar must be readable, got ")
    assert "My.Film.2010.info.json" in found.problem
    assert "\n" not in found.problem


# ---- Kodi and Jellyfin ----


def test_sidecar_of_movie_nfo(video: Path) -> None:
    _nfo(
        video,
        """<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>
        <!-- made by hand -->
        <movie>
            <title>Big &amp; Small</title><originaltitle>x</originaltitle><plot>never read</plot>
            <studio>One</studio><studio> Two </studio><studio>One</studio>
            <premiered>2010-07-16</premiered><year>2010</year>
            <uniqueid type="tmdb">603</uniqueid><uniqueid type="imdb" default="true">tt0133093</uniqueid>
        </movie>""",
    )
    assert sidecar_of(video) == Sidecar(
        title="Big & Small",
        uploader="One, Two",
        upload_date="2010-07-16",
        webpage_url="https://www.imdb.com/title/tt0133093/",
    )


def test_sidecar_of_episode_nfo_the_first_of_several(video: Path) -> None:
    episode = (
        "<episodedetails><title>{0}</title><studio>S</studio><aired>2011-0{0}-01</aired></episodedetails>"
    )
    _nfo(video, episode.format(1) + "\n" + episode.format(2))
    assert sidecar_of(video) == Sidecar(title="1", uploader="S", upload_date="2011-01-01")


def test_sidecar_of_music_video_nfo_artist_where_there_is_no_studio(video: Path) -> None:
    _nfo(video, "<musicvideo><title>Song</title><artist>A</artist><premiered>1999</premiered></musicvideo>")
    assert sidecar_of(video) == Sidecar(title="Song", uploader="A")


@pytest.mark.parametrize(
    ("root", "uniqueid", "expected"),
    [
        ("movie", '<uniqueid type="tmdb">603</uniqueid>', "https://www.themoviedb.org/movie/603"),
        ("movie", '<uniqueid type="imdb">nm1</uniqueid><uniqueid type="tmdb">6 3</uniqueid>', ""),
        ("movie", '<uniqueid type="tvdb">603</uniqueid><uniqueid>tt1</uniqueid>', ""),
        ("episodedetails", '<uniqueid type="tmdb" default="true">603</uniqueid>', ""),
        ("episodedetails", '<uniqueid type="imdb">tt12</uniqueid>', "https://www.imdb.com/title/tt12/"),
    ],
)
def test_sidecar_of_nfo_page_of_its_id(root: str, uniqueid: str, expected: str, video: Path) -> None:
    _nfo(video, f"<{root}>{uniqueid}</{root}>")
    assert sidecar_of(video) == Sidecar(webpage_url=expected)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_sidecar_of_nfo_with_an_address_after_the_element(codec: str, video: Path) -> None:
    _nfo(video, "<movie><title>Ü</title></movie>\nhttps://www.imdb.com/title/tt1/".encode(codec))
    assert sidecar_of(video) == Sidecar(title="Ü")


def test_sidecar_of_nfo_that_is_only_an_address(video: Path) -> None:
    _nfo(video, " https://www.themoviedb.org/movie/603-the-matrix\n")
    assert sidecar_of(video) == Sidecar(webpage_url="https://www.themoviedb.org/movie/603-the-matrix")


def test_sidecar_of_info_json_goes_before_the_nfo_which_fills_the_rest(video: Path) -> None:
    _info(video, {"title": "from info"})
    _nfo(video, "<movie><title>from nfo</title><studio>S</studio></movie>")
    assert sidecar_of(video) == Sidecar(title="from info", uploader="S")


# ---- of the folder ----


def test_sidecar_of_movie_nfo_counts_where_the_file_is_alone(video: Path) -> None:
    _nfo(video, "<movie><title>Film</title></movie>", "movie.nfo")
    assert sidecar_of(video) == Sidecar(title="Film")
    video.with_name("Second.mp4").write_bytes(b"x")
    assert sidecar_of(video) == Sidecar()


def test_sidecar_of_own_nfo_goes_before_movie_nfo(video: Path) -> None:
    _nfo(video, "<movie><title>Film</title></movie>", "movie.nfo")
    _nfo(video, "<movie><studio>S</studio></movie>")
    assert sidecar_of(video) == Sidecar(uploader="S")


@pytest.mark.parametrize("levels_up", [0, 1])
def test_sidecar_of_series_gives_its_studio_only(levels_up: int, video: Path) -> None:
    show = "<tvshow><title>Show</title><studio>S</studio><premiered>2000-01-01</premiered></tvshow>"
    (video.parents[levels_up] / "tvshow.nfo").write_text(show)
    _nfo(video, "<episodedetails><title>E</title></episodedetails>")
    assert sidecar_of(video) == Sidecar(title="E", uploader="S")


# ---- hostile ----

BOMB = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "content",
    [
        f'<!DOCTYPE movie [<!ENTITY l0 "lol">{BOMB}]><movie><title>&l9;</title></movie>',
        f'<movie><!DOCTYPE movie [<!ENTITY l0 "lol">{BOMB}]><title>&l9;</title></movie>',
        '<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]><movie><title>&x;</title></movie>',
        "<movie><title>a</movie>",
        "<movie><title>a</title>",
        "<movie>",
        "<movie " * 140_000,
        "<movie><title>\x00</title></movie>",
        "<x:movie>",
        "",
        "NFO ▄▀ of a release group",
        b"\xda\xc4\xbf \xb3 a cp437 frame",
        "<movie><title>a</title></movie>" + " " * MIB,
    ],
    ids=lambda content: repr(content[:14]),
)
def test_sidecar_of_hostile_nfo_says_so_and_nothing_else(content: str | bytes, video: Path) -> None:
    _nfo(video, content)
    found = sidecar_of(video)
    assert found == Sidecar(problem=found.problem)
    assert found.problem.startswith("a sidecar must be readable, got ")
    assert "\n" not in found.problem


def test_sidecar_of_deeply_nested_nfo_is_read(video: Path) -> None:
    _nfo(video, f"<movie><title>a</title>{'<a>' * 100_000}{'</a>' * 100_000}</movie>")
    assert sidecar_of(video) == Sidecar(title="a")


def test_sidecar_of_what_is_no_file_is_passed_over(video: Path) -> None:
    os.mkfifo(video.with_suffix(".nfo"))
    video.with_suffix(".info.json").mkdir()
    assert sidecar_of(video) == Sidecar()


def test_sidecar_of_looping_link_and_odd_names(video: Path) -> None:
    video.with_suffix(".nfo").symlink_to(video.with_suffix(".nfo"))
    assert sidecar_of(video) == Sidecar()
    assert sidecar_of(Path("/none/a.mp4")) == Sidecar()
    assert sidecar_of(Path("a.mp4")) == Sidecar()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                ["<movie>", "</movie>", "<title>", "</title>", "&lt;", "&x;", "<![CDATA[", "]]>", "<!--", "a"]
            )
        ).map(lambda parts: "".join(parts).encode()),
    )
)
def test_sidecar_of_any_bytes_is_texts(content: bytes, video: Path) -> None:
    _info(video, content)
    _nfo(video, content)
    found = sidecar_of(video)
    for name in Sidecar.__dataclass_fields__:
        text = getattr(found, name)
        text.encode()
        assert "\n" not in text
