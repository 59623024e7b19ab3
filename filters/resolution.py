"""Finds pictures that are too small to learn detail from, or larger than the standard."""

from filters.registry import Bounds, register
from infra.media import Probe


@register(
    name="short_side_px",
    version=1,
    needs="probe",
    unit="px",
    keep=Bounds(min=480, max=1080),
    source="project standard: 480p to 1080p; that '480p' means the shorter display side is an assumption",
)
def short_side_px(probe: Probe) -> float:
    """Shorter side of the display size, so that portrait and landscape count alike.

    Letterboxed wide pictures count by their own rows: 1280x536 is 536. Black bars inside the frame are not
    seen, and neither is upscaling.
    """
    return float(min(probe.width_px, probe.height_px))
