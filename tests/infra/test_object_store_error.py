"""What is told of an error: the code and nothing that could be secret."""

import pytest

from infra.errors import ConfigError, StorageUnavailable
from infra.object_store_error import store_error

_ASKED = "Generic S3 error: Error performing GET https://h/b/k?X-Amz-Signature=hush in 2ms, after 3 retries"
_ARROW = "\n  \x1b[31m\u21b3\x1b[0m "
_DRAWN = f"Kernel error -> Generic S3 error{_ARROW}Error performing PUT https://h/b?sig=hush in 1s - "


@pytest.mark.parametrize(
    ("text", "error_class", "told"),
    [
        (f"{_ASKED}  - HTTP error: error sending request\n\nDebug source:\nhush", StorageUnavailable,
         "HTTP error: error sending request"),
        (f"{_ASKED} - Server returned non-2xx status code: 503 Slow Down: <Error><Code>SlowDown</Code>"
         "<Id>hush</Id></Error>", StorageUnavailable,
         "Server returned non-2xx status code: 503 Slow Down (SlowDown)"),
        (f"{_ASKED} - Server returned non-2xx status code: 403 Forbidden: ", ConfigError,
         "Server returned non-2xx status code: 403 Forbidden"),
        (f"{_ASKED} - Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>", ConfigError,
         "Server returned non-2xx status code: 404 Not Found (NoSuchBucket)"),
        (f"{_DRAWN}Server returned non-2xx status code{_ARROW}403 Forbidden\n  <Error>hush",
         ConfigError, "Server returned non-2xx status code 403 Forbidden"),
        (f"{_ASKED.replace('/b/k', '/b/credentials')} - status code: 500", StorageUnavailable, "status code: 500"),
        ("Error performing PUT http://169.254.169.254/latest/api/token in 1s - HTTP error: error sending request",
         ConfigError, "HTTP error: error sending request"),
        ("Error of https://h/b?sig=hush", StorageUnavailable, "Error of its address"),
        ("", StorageUnavailable, ""),
    ],
)  # fmt: skip
def test_store_error_tells_the_answer_in_a_line_and_no_address(text, error_class, told):
    err = store_error(OSError(text), name="s3://b/k", num_retries=3)
    assert type(err) is error_class
    assert f", got {told} (s3://b/k)" in str(err)
    assert "hush" not in str(err)
    assert "\n" not in str(err)
