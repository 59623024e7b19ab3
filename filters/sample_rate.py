"""Finds sound that cannot hold the band of the training sample."""

from filters.registry import Bounds, register
from infra.errors import MissingStream
from infra.media import Probe


@register(
    name="sample_rate_hz",
    version=1,
    needs="probe",
    unit="Hz",
    keep=Bounds(min=16000),
    source="project standard: >= 16 kHz, the rate of the training sample",
)
def sample_rate_hz(probe: Probe) -> float:
    """Audio sample rate that the header states.

    A narrow band inside a high rate (upsampled telephone speech) is not seen.

    Raises:
        MissingStream: there is no audio stream.
    """
    if not probe.has_audio:
        raise MissingStream("an audio stream is required, the file has none")
    return float(probe.sample_rate_hz)
