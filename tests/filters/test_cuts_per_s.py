import cv2
import numpy as np
import pytest

from filters.cuts_per_s import cut_frames, cuts_per_s
from infra.errors import TooShort
from tests.filters.pictures import (
    as_signal,
    faded,
    flashed,
    flat,
    num_matched,
    panned,
    pieces,
    real_shots,
    relit,
    scene,
)
from tests.media import needs_corpus

A, B, C, D = (scene(seed) for seed in range(4))


def shots(*pictures, frames_each):
    return [picture for picture in pictures for _ in range(frames_each)]


def blend(share, over=B, under=A):
    return np.round(share * over.astype(float) + (1 - share) * under).astype(np.uint8)


def spliced(seed, *, least, most, num_shots=12):
    """Real shots of `least` to `most` frames in random order, and the frames that begin all but the first."""
    rng = np.random.default_rng(seed)
    shots = list(real_shots().values())
    order = rng.permutation(num_shots) % len(shots)
    lengths = np.minimum(rng.integers(least, most + 1, num_shots), [len(shots[index]) for index in order])
    starts = [
        rng.integers(0, len(shots[index]) - count + 1) for index, count in zip(order, lengths, strict=True)
    ]
    parts = [
        shots[index][start : start + count]
        for index, start, count in zip(order, starts, lengths, strict=True)
    ]
    return parts, np.cumsum(lengths)[:-1]


def num_false(clips):
    return sum(len(cut_frames(clip)) for clip in clips)


@pytest.mark.parametrize("num_frames", [0, 1])
def test_cut_frames_fewer_than_two_frames_is_empty(num_frames):
    assert cut_frames(np.zeros((num_frames, 32, 32), np.uint8)).tolist() == []


def test_cut_frames_are_the_first_frames_of_shots():
    assert cut_frames(np.stack([*shots(A, frames_each=5), *shots(B, C, frames_each=9)])).tolist() == [5, 14]


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


@needs_corpus
@pytest.mark.parametrize(("least", "most"), [(8, 32), (4, 16), (2, 8)])
def test_cut_frames_real_footage_has_precision_and_recall_of_95_percent(least, most):
    matched = found = true = 0
    for seed in range(10):
        parts, cuts = spliced(seed, least=least, most=most)
        # It fades in and out, with a flash inside a shot.
        parts[0] = faded(parts[0][::-1], to_luma=16, num_frames=len(parts[0]))[::-1]
        parts[1] = flashed(parts[1], at=len(parts[1]) // 2, gain=1, offset=60)
        parts[-1] = faded(parts[-1], to_luma=16, num_frames=len(parts[-1]))
        frames = cut_frames(np.concatenate(parts))
        matched += num_matched(frames, cuts)
        found, true = found + len(frames), true + len(cuts)
    assert matched / found >= 0.95
    assert matched / true >= 0.95


@needs_corpus
def test_cut_frames_real_footage_as_it_is_has_none():
    # But for a wing that fills the frame in the last step, which has a neighbour on one side only.
    found = {name: cut_frames(shot_NHW).tolist() for name, shot_NHW in real_shots().items()}
    assert {name: frames for name, frames in found.items() if frames} == {"cockatoo_720p_20fps.mp4": [63]}


@needs_corpus
@pytest.mark.parametrize(
    ("gain", "offset", "num_frames"),
    [(1, 60, 1), (1, 60, 2), (1, 120, 1), (2, 40, 1), (0.3, 11, 1), (0.3, 11, 2)],
)
def test_cut_frames_real_footage_flash_is_none(gain, offset, num_frames):
    clips = pieces(16)
    lit = [flashed(clip, at=7, gain=gain, offset=offset, num_frames=num_frames) for clip in clips]
    assert num_false(lit) <= 0.03 * len(clips)


@needs_corpus
@pytest.mark.parametrize("to_luma", [16, 235])
@pytest.mark.parametrize("num_frames", [4, 8])
def test_cut_frames_real_footage_fade_is_none(to_luma, num_frames):
    clips = pieces(16)
    assert num_false(faded(clip, to_luma=to_luma, num_frames=num_frames) for clip in clips) == 0


@needs_corpus
@pytest.mark.parametrize("px_per_frame", [4, 20, 40, 68])
def test_cut_frames_real_footage_pan_up_to_15_percent_of_the_width_is_none(px_per_frame):
    clips = pieces(16)
    num_steps = sum(len(clip) - 1 for clip in clips)
    assert num_false(panned(clip, px_per_frame=px_per_frame) for clip in clips) <= 0.01 * num_steps


@needs_corpus
@pytest.mark.parametrize("period", [1, 2, 4])
def test_cut_frames_real_footage_strobe_counts_only_when_it_leaves_no_structure(period):
    lit = (np.arange(16) // period) % 2 == 1
    clips = pieces(16)
    flicker, blank = [clip.copy() for clip in clips], [clip.copy() for clip in clips]
    for clip in flicker:
        clip[lit] = relit(clip[lit], offset=60)
    for clip in blank:
        clip[lit] = 235
    num_changes = np.count_nonzero(lit[1:] != lit[:-1]) * len(clips)
    assert num_false(flicker) <= 0.01 * num_changes
    assert num_false(blank) >= 0.5 * num_changes
