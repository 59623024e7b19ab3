import pytest

from filters.registry import all_filters
from filters.sample_rate import sample_rate_hz
from infra.errors import MissingStream
from tests.filters.probes import probe

KEEP = {spec.name: spec.keep for spec in all_filters()}["sample_rate_hz"]


@pytest.mark.parametrize(
    ("rate_hz", "kept"),
    [(48000, True), (44100, True), (16000, True), (11025, False), (8000, False)],
)
def test_sample_rate_hz_keeps_16_khz_and_up(rate_hz, kept):
    score = sample_rate_hz(probe(has_audio=True, sample_rate_hz=rate_hz))
    assert (score, KEEP.admits(score)) == (rate_hz, kept)


def test_sample_rate_hz_no_audio_stream_raises_missing_stream():
    with pytest.raises(MissingStream):
        sample_rate_hz(probe(has_audio=False, sample_rate_hz=0))
