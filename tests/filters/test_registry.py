import math
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import registry
from filters.registry import Bounds, Filter, all_filters, measure, register
from filters.signals import AudioSignal, AvSignal, KeyframeSignal, SpeechSignal, VideoSignal
from infra.errors import ConfigError, IntegrityError, TooShort
from tests.filters.pictures import scene
from tests.filters.probes import probe
from tests.filters.sounds import speech_like

FILTERS = all_filters()
SIGNALS = {
    "probe": probe(
        width_px=1280, height_px=720, frame_rate_fps=Fraction(25), has_audio=True, sample_rate_hz=48000
    ),
    "audio": AudioSignal(
        audio_CT=np.stack([speech_like(2, seed=1), speech_like(2, seed=2)]).astype(np.float32),
        sample_rate_hz=48000,
    ),
    "video": VideoSignal(
        luma_NHW=np.stack([scene(index // 4) for index in range(16)]), frame_rate_fps=Fraction(8)
    ),
    "speech": SpeechSignal(probability_N=np.linspace(0, 1, 62, dtype=np.float32)),
}
SIGNALS["keyframes"] = KeyframeSignal(luma_KHW=SIGNALS["video"].luma_NHW[::8])
SIGNALS["av"] = AvSignal(video=SIGNALS["video"], audio=SIGNALS["audio"])
EMPTY = {
    "audio": AudioSignal(audio_CT=np.zeros((2, 0), np.float32), sample_rate_hz=48000),
    "video": VideoSignal(luma_NHW=np.zeros((0, 512, 910), np.uint8), frame_rate_fps=Fraction(8)),
    "speech": SpeechSignal(probability_N=np.zeros(0, np.float32)),
    "keyframes": KeyframeSignal(luma_KHW=np.zeros((0, 512, 910), np.uint8)),
}
EMPTY["av"] = AvSignal(video=EMPTY["video"], audio=EMPTY["audio"])
DESCRIPTION = {"version": 1, "needs": "probe", "unit": "px", "keep": Bounds(), "source": "a test"}

each_filter = pytest.mark.parametrize("entry", FILTERS, ids=lambda entry: entry.name)


def test_all_filters_order_is_stable():
    order = ("probe", "audio", "speech", "keyframes", "video", "av")
    assert list(FILTERS) == sorted(FILTERS, key=lambda entry: (order.index(entry.needs), entry.name))
    assert all_filters() == FILTERS


def test_all_filters_fresh_process_finds_every_file():
    code = "from filters.registry import all_filters; print(*(entry.name for entry in all_filters()))"
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [entry.name for entry in FILTERS]


def test_all_filters_do_not_import_heavy_packages():
    code = (
        "import sys; from filters.registry import all_filters; all_filters();"
        "print(*({'librosa', 'numba', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_every_filter_module_has_a_test_file():
    folder = Path(registry.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert modules - tests == set()


@each_filter
def test_filter_is_documented(entry):
    assert entry.measure.__name__ == entry.name
    assert entry.measure.__doc__
    assert entry.source
    assert entry.unit


@each_filter
def test_measure_same_input_same_finite_score(entry):
    score = measure(entry, SIGNALS[entry.needs])
    assert isinstance(score, float)
    assert math.isfinite(score)
    assert measure(entry, SIGNALS[entry.needs]) == score


@each_filter
def test_measure_leaves_its_input_alone(entry):
    before = pickle.dumps(SIGNALS[entry.needs])
    measure(entry, SIGNALS[entry.needs])
    assert pickle.dumps(SIGNALS[entry.needs]) == before


@each_filter
def test_measure_memory_layout_does_not_matter(entry):
    strided = {
        "probe": SIGNALS["probe"],
        "audio": AudioSignal(audio_CT=np.asfortranarray(SIGNALS["audio"].audio_CT), sample_rate_hz=48000),
        "video": VideoSignal(
            luma_NHW=np.pad(SIGNALS["video"].luma_NHW, ((0, 0), (0, 9), (0, 7)))[:, :512, :910],
            frame_rate_fps=Fraction(8),
        ),
        "speech": SpeechSignal(probability_N=np.repeat(SIGNALS["speech"].probability_N, 2)[::2]),
    }
    strided["keyframes"] = KeyframeSignal(luma_KHW=strided["video"].luma_NHW[::8])
    strided["av"] = AvSignal(video=strided["video"], audio=strided["audio"])
    assert measure(entry, strided[entry.needs]) == pytest.approx(
        measure(entry, SIGNALS[entry.needs]), abs=1e-4
    )


@pytest.mark.parametrize(
    "entry", [entry for entry in FILTERS if entry.needs != "probe"], ids=lambda e: e.name
)
def test_measure_empty_signal_raises_too_short(entry):
    with pytest.raises(TooShort, match=entry.name):
        measure(entry, EMPTY[entry.needs])


@each_filter
def test_measure_other_signal_raises_integrity_error(entry):
    other = SIGNALS["audio" if entry.needs != "audio" else "video"]
    with pytest.raises(IntegrityError, match=entry.name):
        measure(entry, other)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_measure_score_not_finite_raises_integrity_error(score):
    broken = Filter(name="broken", measure=lambda _: score, **DESCRIPTION)
    with pytest.raises(IntegrityError, match="broken"):
        measure(broken, SIGNALS["probe"])


def test_register_taken_name_raises_config_error():
    with pytest.raises(ConfigError, match="snr_db twice"):
        register(name="snr_db", **DESCRIPTION)(lambda _: 0.0)
    assert all_filters() == FILTERS


@pytest.mark.parametrize(
    "change", [{"name": "Snr dB"}, {"name": ""}, {"version": 0}, {"unit": ""}, {"source": ""}]
)
def test_filter_incomplete_description_raises_config_error(change):
    with pytest.raises(ConfigError):
        Filter(**({"name": "good_name", "measure": lambda _: 0.0} | DESCRIPTION | change))


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (Bounds(min=480, max=1080), (480, 700, 1080), (479.9, 1080.1)),
        (Bounds(min=10, strict=True), (10.001, 1e9), (10, -5)),
        (Bounds(max=0.5, strict=True), (0, 0.4999), (0.5, 1)),
        (Bounds(min=0), (0, 1), (-0.001,)),
        (Bounds(max=0), (0, -1), (0.001,)),
        (Bounds(min=0, max=0), (0,), (0.1, -0.1)),
        (Bounds(), (-1e300, 0, 1e300), (math.nan,)),
    ],
)
def test_bounds_admits_is_exact_at_the_ends(bounds, inside, outside):
    assert all(bounds.admits(score) for score in inside)
    assert not any(bounds.admits(score) for score in outside)


@pytest.mark.parametrize("ends", [{"min": 2, "max": 1}, {"min": math.nan}, {"max": math.nan}])
def test_bounds_impossible_raises_config_error(ends):
    with pytest.raises(ConfigError):
        Bounds(**ends)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(min=480, max=1080), "480 to 1080"),
        (Bounds(min=0, max=1, strict=True), "0 to 1 (both excluded)"),
        (Bounds(min=16000), ">= 16000"),
        (Bounds(min=10, strict=True), "> 10"),
        (Bounds(max=0), "<= 0"),
        (Bounds(max=2, strict=True), "< 2"),
        (Bounds(), "any"),
    ],
)
def test_bounds_describe_says_the_ends(bounds, words):
    assert bounds.describe() == words


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_bounds_strict_admits_no_more_than_inclusive(first, second, score):
    low, high = sorted((first, second))
    assert Bounds(min=low, max=high).admits(score) or not Bounds(min=low, max=high, strict=True).admits(score)
