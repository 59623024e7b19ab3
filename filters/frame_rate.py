"""Finds video whose motion is sampled too coarsely."""

from filters.registry import Bounds, register
from infra.media import Probe

# Film at the NTSC rate, 24000/1001 = 23.976..., is sold as 24. A stream's average is a little lower when its last
# frame is long, so the bound leaves 0.3% of room (assumption); no common rate lies between 20 and this.
_NOMINAL_24_FPS = 23.9


@register(
    name="frame_rate_fps",
    version=1,
    needs="probe",
    unit="frames/s",
    keep=Bounds(min=_NOMINAL_24_FPS),
    source="project standard: >= 24 fps nominal; 24000/1001, film at the NTSC rate, counts as 24",
)
def frame_rate_fps(probe: Probe) -> float:
    """Average frame rate of the stream by its header; 0 when the header does not say.

    Duplicated frames (a 12 fps film in a 24 fps file) are not seen.
    """
    return float(probe.frame_rate_fps)
