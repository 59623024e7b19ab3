import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.rope import (
    LONGEST_TIME_PERIOD_S,
    SHORTEST_TIME_PERIOD_S,
    angular_frequencies_P,
    apply_rotary,
    audio_positions_L3,
    rotary_angles_LP,
    time_positions_L3,
    video_positions_L3,
)

CPU = torch.device("cpu")
HEAD_CHANNELS = 64
NUM_TIME_PAIRS = 16


@given(fps=st.integers(1, 60), tubelet_frames=st.integers(1, 8), patch_frames=st.integers(1, 8))
def test_rotary_angles_same_second_same_temporal_phase(fps, tubelet_frames, patch_frames):
    # Any frame rate, and the hop with which the third audio token is centred on the second tubelet.
    tubelet_s = Fraction(tubelet_frames, fps)
    hop_s = tubelet_s * Fraction(3, 2) / (2 * patch_frames + Fraction(patch_frames - 1, 2))
    video_L3 = video_positions_L3((2, 1, 1), tubelet_s=tubelet_s, device=CPU)
    audio_L3 = audio_positions_L3(4, hop_s=hop_s, patch_frames=patch_frames, device=CPU)
    audio_LP = rotary_angles_LP(audio_L3, HEAD_CHANNELS)[2]
    video_LP = rotary_angles_LP(video_L3, HEAD_CHANNELS)[1]
    torch.testing.assert_close(video_LP[:NUM_TIME_PAIRS], audio_LP[:NUM_TIME_PAIRS], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("fps", "tubelet_frames"), [(8, 4), (16, 8), (24, 12)])
def test_video_positions_other_frame_rate_same_seconds(fps, tubelet_frames):
    positions = video_positions_L3((3, 1, 1), tubelet_s=Fraction(tubelet_frames, fps), device=CPU)
    assert positions[:, 0].tolist() == [0.25, 0.75, 1.25]


def test_video_positions_grid_is_centred_and_time_outermost():
    positions = video_positions_L3((1, 2, 2), tubelet_s=Fraction(1), device=CPU)
    expected = [[0.5, -0.25, -0.25], [0.5, -0.25, 0.25], [0.5, 0.25, -0.25], [0.5, 0.25, 0.25]]
    assert positions.tolist() == expected


def test_audio_positions_patch_of_two_lies_between_its_frames():
    positions = audio_positions_L3(2, hop_s=Fraction(256, 16_000), patch_frames=2, device=CPU)
    assert positions[:, 0].tolist() == pytest.approx([0.008, 0.040])
    assert not positions[:, 1:].any()


def test_angular_frequencies_ends_are_the_named_periods():
    frequencies = angular_frequencies_P(
        5, shortest_period=SHORTEST_TIME_PERIOD_S, longest_period=LONGEST_TIME_PERIOD_S
    )
    assert float(frequencies[0]) == pytest.approx(2 * math.pi / SHORTEST_TIME_PERIOD_S, rel=1e-5)
    assert float(frequencies[-1]) == pytest.approx(2 * math.pi / LONGEST_TIME_PERIOD_S, rel=1e-5)


def test_apply_rotary_quarter_turn_swaps_the_pair():
    x = torch.tensor([[[[1.0, 0.0]]]])
    turned = apply_rotary(x, torch.tensor([[math.pi / 2]]))
    torch.testing.assert_close(turned, torch.tensor([[[[0.0, 1.0]]]]))


def test_apply_rotary_inner_product_depends_on_the_difference_of_seconds():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, HEAD_CHANNELS)

    def product(query_s: float, key_s: float) -> float:
        angles = rotary_angles_LP(time_positions_L3(torch.tensor([query_s, key_s])), HEAD_CHANNELS)
        return float((apply_rotary(query, angles[:1]) * apply_rotary(key, angles[1:])).sum())

    assert product(1.0, 1.5) == pytest.approx(product(3.0, 3.5), abs=1e-3)
    assert product(1.0, 1.5) != pytest.approx(product(1.0, 1.6), abs=1e-2)
