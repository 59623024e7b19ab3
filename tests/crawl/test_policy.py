import pytest
from pydantic import ValidationError

from crawl.policy import FetchConfig


def test_fetch_config_infinite_time_limit_raises_validation_error():
    with pytest.raises(ValidationError, match="finite number"):
        FetchConfig(timeout_s=float("inf"))
