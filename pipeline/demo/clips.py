"""What the demo's media are: each generated clip, and the one standard that it breaks, if any."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.demo import sounds
from pipeline.records import NO_AUDIO

GOOD: frozenset[str] = frozenset()

# Integer upscaling without interpolation keeps the edges of small, cheap sources sharp.
_SHARP = "flags=neighbor"
_TESTCARD = "testsrc2=size=640x480:rate=25"
# Fine texture that moves fast, at full contrast, would look like cuts to a detector: slower, and softer.
_SOFT = "lutyuv=y=val*0.4+70"
_AUTOMATON = (
    f"cellauto=size=160x120:rate=6:rule=110:random_seed=7:full=1,{_SOFT},scale=640:480:{_SHARP},fps=25"
)
_CARPET = (
    f"sierpinski=size=320x240:rate=8:seed=3:jump=10000:type=carpet,{_SOFT},scale=640:480:{_SHARP},fps=25"
)
# Three pictures in turn, 0.25 s each: four cuts a second.
_STROBE = (
    f"{_TESTCARD}[a];{_AUTOMATON}[b];mandelbrot=size=160x120:rate=25:maxiter=60,scale=640:480:{_SHARP}[c];"
    "[a][b]overlay=enable='between(mod(t,0.75),0.249,0.499)'[ab];"
    "[ab][c]overlay=enable='gte(mod(t,0.75),0.499)'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoClip:
    """One file to generate."""

    name: str
    """The file is `<name>.mp4`."""
    picture: str
    """ffmpeg's lavfi graph of the frames; its size and rate are the file's."""
    sound: Callable[[float, int, int], sounds.F32] | None
    """(duration_s, sample_rate_hz, seed) -> samples; None: the file has no audio stream."""
    duration_s: float
    sample_rate_hz: int = 48_000
    seed: int = 1
    breaks: frozenset[str] = GOOD
    """Every reason for which the standards reject it: names of filters, or `no_audio`."""

    @property
    def file_name(self) -> str:
        """Name of the file in the media folder."""
        return f"{self.name}.mp4"


# Two windows of ten seconds, and one.
_LONG_S = 20.0
_SHORT_S = 10.0

GOOD_CLIPS: tuple[DemoClip, ...] = (
    DemoClip(name="testcard", picture=_TESTCARD, sound=sounds.speech_like, duration_s=_LONG_S, seed=1),
    DemoClip(
        name="testcard_hd",
        picture="testsrc2=size=1280x720:rate=30",
        sound=sounds.plucks,
        duration_s=_SHORT_S,
        seed=2,
    ),
    DemoClip(
        name="fractal",
        picture=(
            "mandelbrot=size=320x240:rate=25:maxiter=120:end_scale=0.01:end_pts=500:inner=convergence,"
            f"scale=640:480:{_SHARP}"
        ),
        sound=sounds.pings,
        duration_s=_LONG_S,
        seed=3,
    ),
    DemoClip(
        name="automaton",
        picture=_AUTOMATON,
        sound=sounds.speech_like,
        duration_s=_LONG_S,
        sample_rate_hz=44_100,
        seed=4,
    ),
    DemoClip(
        name="life",
        picture=(
            "life=size=160x120:rate=8:random_seed=7:mold=12:ratio=0.2:life_color=#e0e0a0:"
            "death_color=#803040:mold_color=#102050,"
            f"trim=start_frame=24,setpts=PTS-STARTPTS,scale=640:480:{_SHARP},fps=25"
        ),
        sound=sounds.plucks,
        duration_s=_LONG_S,
        seed=5,
    ),
    DemoClip(
        name="carpet",
        picture=_CARPET,
        sound=sounds.pings,
        duration_s=_LONG_S,
        sample_rate_hz=44_100,
        seed=6,
    ),
    DemoClip(
        name="weave",
        picture=(
            "gradients=size=160x120:rate=25:seed=5:nb_colors=6:speed=0.02,format=gbrp[g];"
            f"cellauto=size=80x60:rate=6:rule=30:random_seed=2:full=1,scale=160:120:{_SHARP},fps=25,format=gbrp[c];"
            f"[g][c]blend=all_mode=difference,scale=640:480:{_SHARP}"
        ),
        sound=sounds.speech_like,
        duration_s=_LONG_S,
        seed=7,
    ),
    DemoClip(
        name="bars",
        picture="smptehdbars=size=854x480:rate=30,drawgrid=w=61:h=48:t=2:c=white,scroll=h=0.002:v=0.0015",
        sound=sounds.plucks,
        duration_s=_LONG_S,
        seed=8,
    ),
)

BAD_CLIPS: tuple[DemoClip, ...] = (
    DemoClip(
        name="blurred",
        picture=f"{_TESTCARD},gblur=sigma=12:steps=3",
        sound=sounds.speech_like,
        duration_s=_SHORT_S,
        breaks=frozenset({"keyframe_laplacian_variance"}),
    ),
    DemoClip(
        name="strobing",
        picture=_STROBE,
        sound=sounds.pings,
        duration_s=_SHORT_S,
        breaks=frozenset({"cuts_per_s"}),
    ),
    DemoClip(
        name="silent",
        picture=_TESTCARD,
        sound=sounds.silence,
        duration_s=_SHORT_S,
        # Without a signal there is no ratio of signal to noise either.
        breaks=frozenset({"silence_ratio", "snr_db"}),
    ),
    DemoClip(
        name="noisy",
        picture=_AUTOMATON,
        sound=sounds.noisy_speech,
        duration_s=_SHORT_S,
        breaks=frozenset({"snr_db"}),
    ),
    DemoClip(
        name="clipped",
        picture=_CARPET,
        sound=sounds.clipped_speech,
        duration_s=_SHORT_S,
        breaks=frozenset({"clipped_ratio"}),
    ),
    DemoClip(
        name="telephone",
        picture=_TESTCARD,
        sound=sounds.speech_like,
        duration_s=_SHORT_S,
        sample_rate_hz=8_000,
        breaks=frozenset({"sample_rate_hz"}),
    ),
    DemoClip(
        name="slow",
        picture="testsrc2=size=640x480:rate=15",
        sound=sounds.plucks,
        duration_s=_SHORT_S,
        breaks=frozenset({"frame_rate_fps"}),
    ),
    DemoClip(
        name="small",
        picture=f"sierpinski=size=160x120:rate=8:seed=3:jump=10000:type=carpet,{_SOFT},scale=320:240:{_SHARP},fps=25",
        sound=sounds.pings,
        duration_s=_SHORT_S,
        breaks=frozenset({"short_side_px"}),
    ),
    DemoClip(
        name="mute",
        picture=_AUTOMATON,
        sound=None,
        duration_s=_SHORT_S,
        breaks=frozenset({NO_AUDIO}),
    ),
)

BUNNY_FILE = "bunny.mp4"
"""The one real clip: five seconds of Big Buck Bunny (Blender Foundation, CC BY 3.0) with sound."""

HLS_CLIP = "automaton"
"""The good clip that is also served in segments."""
HLS_FOLDER = "hls"
HLS_PLAYLIST = f"{HLS_CLIP}.m3u8"

TRUNCATED_FILE = "truncated.mp4"
"""The first part of a good file: its index, which comes last, is missing."""
TEXT_FILE = "text.mp4"
"""A text with the name of a film."""
