import cv2
import numpy as np
import pytest

from filters.cuts_per_s import cuts_per_s
from infra.errors import TooShort
from tests.filters.pictures import as_signal, flat, scene

A, B, C, D = (scene(seed) for seed in range(4))


def shots(*pictures, frames_each):
    return [picture for picture in pictures for _ in range(frames_each)]


def blend(share, over=B, under=A):
    return np.round(share * over.astype(float) + (1 - share) * under).astype(np.uint8)


@pytest.mark.parametrize("num_frames", [0, 1])
def test_cuts_per_s_fewer_than_two_frames_raises_too_short(num_frames):
    with pytest.raises(TooShort, match=f"got {num_frames}"):
        cuts_per_s(as_signal(np.zeros((num_frames, 32, 32), np.uint8)))


def test_cuts_per_s_still_picture_is_zero():
    assert cuts_per_s(as_signal(shots(A, frames_each=16))) == 0


def test_cuts_per_s_counts_cuts_over_the_duration():
    frames = shots(A, B, C, frames_each=8)
    assert cuts_per_s(as_signal(frames)) == pytest.approx(2 / 3)
    assert cuts_per_s(as_signal(frames, frame_rate_fps=4)) == pytest.approx(1 / 3)


def test_cuts_per_s_two_frames_of_two_shots_is_one_cut():
    assert cuts_per_s(as_signal([A, B])) == 4


@pytest.mark.parametrize("pictures", [(A, B), (A, B, C, D), (flat(16), flat(235)), (flat(60), flat(130))])
def test_cuts_per_s_strobing_four_times_a_second_counts_in_full(pictures):
    frames = shots(*[pictures[index % len(pictures)] for index in range(40)], frames_each=2)
    assert cuts_per_s(as_signal(frames)) == pytest.approx(39 / 10)


def test_cuts_per_s_new_picture_every_frame_is_over_the_bound():
    assert cuts_per_s(as_signal([scene(seed) for seed in range(80)])) > 3
    assert cuts_per_s(as_signal([(flat(16), flat(235))[index % 2] for index in range(80)])) > 7


@pytest.mark.parametrize("cuts_a_second", [2.5, 3, 5, 6])
def test_cuts_per_s_strobing_out_of_step_with_the_frames_is_over_the_bound(cuts_a_second):
    frames = [scene(int(index / 8 * cuts_a_second)) for index in range(80)]
    assert cuts_per_s(as_signal(frames)) > 2


def test_cuts_per_s_random_textures_are_told_apart():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(16, 236, (512, 910), np.uint8) for _ in range(10)]
    assert cuts_per_s(as_signal(shots(*pictures, frames_each=4))) == pytest.approx(9 / 5)


@pytest.mark.parametrize("luma", [16, 40, 200])
def test_cuts_per_s_cut_to_a_flat_picture_counts(luma):
    assert cuts_per_s(as_signal([*shots(A, frames_each=8), *shots(flat(luma), frames_each=8)])) == 0.5


def test_cuts_per_s_dark_scenes_are_told_apart():
    dark = [(16 + (picture.astype(int) - 16) // 12).astype(np.uint8) for picture in (A, B)]
    assert cuts_per_s(as_signal(shots(*dark, frames_each=8))) == 0.5


@pytest.mark.parametrize("flash", [flat(235), flat(16), B])
@pytest.mark.parametrize("at", [1, 5, 14])
def test_cuts_per_s_flash_of_one_frame_is_zero(flash, at):
    frames = shots(A, frames_each=16)
    frames[at] = flash
    assert cuts_per_s(as_signal(frames)) == 0


def test_cuts_per_s_camera_flashes_in_a_row_are_zero():
    frames = shots(A, frames_each=24)
    for at in (4, 7, 10, 13):
        frames[at] = flat(235)
    assert cuts_per_s(as_signal(frames)) == 0


@pytest.mark.parametrize("fade_s", [0.75, 1, 2, 4])
@pytest.mark.parametrize("to", [B, flat(16), flat(235)])
def test_cuts_per_s_fade_is_zero(fade_s, to):
    steps = round(8 * fade_s)
    frames = [
        *shots(A, frames_each=6),
        *(blend(step / steps, over=to) for step in range(1, steps)),
        *shots(to, frames_each=6),
    ]
    assert cuts_per_s(as_signal(frames)) == 0


@pytest.mark.parametrize("px_per_frame", [4, 16, 40, 100, 160])
def test_cuts_per_s_pan_is_zero(px_per_frame):
    world = scene(9, width=910 + 160 * 24, cells=24)
    frames = [np.ascontiguousarray(world[:, x : x + 910]) for x in range(0, 24 * px_per_frame, px_per_frame)]
    assert cuts_per_s(as_signal(frames)) == 0


def test_cuts_per_s_pan_that_starts_and_stops_at_once_is_zero():
    world = scene(9, width=910 + 100 * 8, cells=24)
    frames = [world[:, 100 * step : 100 * step + 910] for step in (0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5)]
    assert cuts_per_s(as_signal(np.stack(frames))) == 0


def test_cuts_per_s_zoom_is_zero():
    frames = [
        cv2.resize(A[256 - size : 256 + size, 455 - size : 455 + size], (910, 512))
        for size in np.linspace(250, 60, 24).astype(int)
    ]
    assert cuts_per_s(as_signal(frames)) == 0


def test_cuts_per_s_sensor_noise_on_a_dark_wall_is_zero():
    rng = np.random.default_rng(0)
    frames = [np.clip(rng.normal(30, 8, (512, 910)), 16, 235).astype(np.uint8) for _ in range(16)]
    assert cuts_per_s(as_signal(frames)) == 0


def test_cuts_per_s_cut_during_a_pan_counts():
    world, other = (scene(seed, width=910 + 16 * 16, cells=9) for seed in (5, 6))
    frames = [picture[:, 16 * step : 16 * step + 910] for picture in (world, other) for step in range(8)]
    assert cuts_per_s(as_signal(np.stack(frames))) == 0.5
