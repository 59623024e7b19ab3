from itertools import product

import torch

from train.counter_noise import SampleNoise, counter_choice, counter_seed, draw_sample_noise


def draw(run_seed: int = 0, key: str = "a-0-1", epoch: int = 0, *, dropout_ratio: float = 0.0) -> SampleNoise:
    return draw_sample_noise(
        run_seed, key, epoch, video_shape=(2, 4, 2, 2), audio_shape=(4, 80), dropout_ratio=dropout_ratio
    )


def test_draw_sample_noise_ignores_the_global_generator():
    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(2)
    torch.randn(100)
    second = draw()
    assert torch.equal(first.video_TCYX, second.video_TCYX)
    assert torch.equal(first.audio_FM, second.audio_FM)
    assert (first.video_t, first.audio_t) == (second.video_t, second.audio_t)


def test_counter_seed_every_coordinate_matters():
    coordinates = product((0, 1), ("a", "b"), (0, 1), ("video", "audio"))
    seeds = {counter_seed(*coordinate) for coordinate in coordinates}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_counter_seed_known_value_does_not_move():
    # Golden: half of coreutils `b2sum -l 64` of "7/3/video/clip"; a change would alter every run that is resumed.
    assert counter_seed(7, "clip", 3, "video") == 6843706858544322048


def test_draw_sample_noise_has_unit_variance_and_own_times():
    noises = [draw(key=f"k{index}") for index in range(64)]
    values = torch.stack([noise.video_TCYX for noise in noises])
    assert abs(values.mean()) < 0.1
    assert abs(values.std() - 1) < 0.1
    assert all(0 < noise.video_t < 1 for noise in noises)
    assert len({float(noise.video_t) for noise in noises} | {float(noise.audio_t) for noise in noises}) == 128


def test_draw_sample_noise_dropout_ratio_is_the_share_dropped():
    noises = [draw(key=f"k{index}", dropout_ratio=0.25) for index in range(400)]
    clip_dropped = sum(not noise.keeps_clip for noise in noises) / 400
    both_dropped = sum(not (noise.keeps_clip or noise.keeps_clap) for noise in noises) / 400
    assert abs(clip_dropped - 0.25) < 0.08
    assert abs(both_dropped - 0.0625) < 0.05


def test_counter_choice_covers_all_choices():
    chosen = {counter_choice(0, f"k{i}", 0, purpose="window", num_choices=3) for i in range(50)}
    assert chosen == {0, 1, 2}
