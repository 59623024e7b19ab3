import base64
from urllib.parse import quote, quote_plus

from hypothesis import example, given
from hypothesis import strategies as st

from crawl.scrub import scrubber

_SECRET = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="*"), min_size=6, max_size=12)
_TEXT = st.text(max_size=12)


def forms(secret: str) -> list[str]:
    percent = {quote(secret), quote(secret, safe=""), quote_plus(secret), quote(secret, safe="!*'()@:")}
    lower = {text.replace("%2F", "%2f").replace("%C3", "%c3") for text in percent}
    return [secret, *sorted(percent | lower), secret.encode().decode("latin-1"), repr(secret)[1:-1]]


@given(secrets=st.lists(_SECRET, min_size=1, max_size=4), before=_TEXT, after=_TEXT, data=st.data())
@example(secrets=["abcdef", "abcdefgh"], before="", after="", data=None)
def test_scrubber_no_secret_survives_in_any_form(
    secrets: list[str], before: str, after: str, data: st.DataObject | None
) -> None:
    secret = data.draw(st.sampled_from(secrets)) if data else secrets[-1]
    scrub = scrubber(secrets, [])
    for form in forms(secret):
        found = scrub(f"{before}{form}{after}")
        assert not any(spelled in found for spelled in forms(secret))
        assert "***" in found


@given(user=_SECRET, password=_SECRET, before=_TEXT, after=_TEXT)
def test_scrubber_no_basic_auth_survives(user: str, password: str, before: str, after: str) -> None:
    scrub = scrubber([password], [(user, password)])
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    url_safe = base64.urlsafe_b64encode(f"{user}:{password}".encode()).decode()
    for form in (token, url_safe, token.rstrip("="), quote(token, safe="")):
        assert form.rstrip("=") not in scrub(f"{before}{form}{after}")
    assert password not in scrub(f"{before}http://{user}:{password}@h/{after}")


@given(st.text(alphabet="abc /@:.?", max_size=40))
def test_scrubber_text_without_secrets_and_credentials_stays(text: str) -> None:
    assert scrubber(["hunter2"], [("ada", "hunter2")])(text) == (
        text if "://" not in text else scrubber([], [])(text)
    )
