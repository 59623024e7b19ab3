"""Stage: Segment -> scores and reasons of one candidate clip."""

from collections.abc import Collection, Mapping
from fractions import Fraction

from filters.registry import Bounds, Filter, Signal, measure
from filters.signals import AudioSignal, VideoSignal
from infra.media.decode import Segment
from pipeline.screen_source import Scores


def measure_clip(
    segment: Segment,
    *,
    sample_rate_hz: int,
    frame_rate_fps: Fraction,
    filters: Collection[Filter],
    bounds: Mapping[str, Bounds],
) -> tuple[Scores, tuple[str, ...]]:
    """Scores of the filters that need frames or samples, and the names of those whose bounds are broken.

    Args:
        sample_rate_hz: native rate of the segment's sound.

    Raises:
        TooShort: the segment has fewer frames or samples than a filter needs.
        IntegrityError: a score is not finite.
    """
    signals: dict[str, Signal] = {
        "video": VideoSignal(luma_NHW=segment.luma_NHW, frame_rate_fps=frame_rate_fps),
        "audio": AudioSignal(audio_CT=segment.native_TC.T, sample_rate_hz=sample_rate_hz),
    }
    scores = tuple(
        (spec.name, measure(spec, signals[spec.needs])) for spec in filters if spec.needs in signals
    )
    reasons = tuple(name for name, score in scores if not bounds[name].admits(score))
    return scores, reasons
