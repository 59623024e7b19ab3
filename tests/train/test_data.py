from dataclasses import fields, replace
from itertools import count, islice

import pytest
import torch

from infra.errors import ConfigError, IntegrityError
from shards.reader import ShardReader
from tests.train.conftest import write_dataset
from train.config import load_train_config
from train.data import Batch, BatchSource, Position, make_example, num_window_starts, prefetch

START = Position(epoch=0, num_read=0)


def batches(dataset_dir, config, *, num_batches, start=START, rank=0, num_ranks=1) -> list[Batch]:
    source = BatchSource(ShardReader(dataset_dir), config, rank=rank, num_ranks=num_ranks)
    return list(islice(source.batches(start), num_batches))


def assert_same(one: Batch, two: Batch) -> None:
    for field in fields(Batch):
        left, right = getattr(one, field.name), getattr(two, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def test_batches_have_the_shapes_of_the_recipe(dataset_dir, small_config):
    (batch,) = batches(dataset_dir, small_config, num_batches=1)
    assert batch.latents_BTCYX.shape == batch.video_noise_BTCYX.shape == (2, 16, 4, 4, 4)
    assert batch.mel_BFM.shape == batch.audio_noise_BFM.shape == (2, 126, 80)
    assert (batch.clip_BND.shape, batch.clap_BD.shape) == ((2, 2, 768), (2, 512))
    assert batch.latents_BTCYX.isfinite().all()
    assert batch.mel_BFM.isfinite().all()


def test_batches_leave_out_and_count_short_clips(dataset_dir, small_config):
    source = BatchSource(ShardReader(dataset_dir), small_config, rank=0, num_ranks=1)
    keys = {key for batch in islice(source.batches(START), 8) for key in batch.keys}
    assert keys == {f"source{index}-00000000-00003000" for index in range(7)}
    assert source.skipped.num_too_short >= 2
    assert source.skipped.num_undecodable == 0


def test_batches_from_a_position_continue_bitwise(dataset_dir, small_config):
    whole = batches(dataset_dir, small_config, num_batches=7)
    resumed = batches(dataset_dir, small_config, num_batches=3, start=whole[3].position)
    for one, two in zip(whole[4:], resumed, strict=True):
        assert_same(one, two)


def test_make_example_does_not_depend_on_the_rank(dataset_dir, small_config):
    alone = {}
    for batch in batches(dataset_dir, small_config, num_batches=3):
        alone |= {key: (batch, row) for row, key in enumerate(batch.keys)}
    shared = batches(dataset_dir, small_config, num_batches=1, rank=1, num_ranks=2)[0]
    assert shared.position.epoch == 0
    common = [(row, key) for row, key in enumerate(shared.keys) if key in alone]
    assert common
    for row, key in common:
        batch, other_row = alone[key]
        for name in (
            "latents_BTCYX",
            "mel_BFM",
            "video_noise_BTCYX",
            "audio_noise_BFM",
            "video_t_B",
            "audio_t_B",
        ):
            assert torch.equal(getattr(shared, name)[row], getattr(batch, name)[other_row]), (key, name)


def test_make_example_windows_move_between_epochs(samples, small_config):
    # A 3 s clip has two windows of 2 s; the CLIP rows say which one was cut.
    clip = samples[0].clip_embedding_ND
    cut = [
        make_example(samples[0], epoch=epoch, num_starts=2, config=small_config).clip_ND.numpy()
        for epoch in range(8)
    ]
    starts = {0 if (rows == clip[:2]).all() else 1 for rows in cut}
    assert starts == {0, 1}
    assert all((rows == clip[:2]).all() or (rows == clip[1:]).all() for rows in cut)


def test_num_window_starts_counts_whole_seconds(samples, small_config):
    assert [num_window_starts(sample, small_config.data) for sample in (samples[0], samples[7])] == [2, 0]


def test_num_window_starts_other_frame_rate_raises_config_error(samples):
    config = load_train_config("tiny", overrides=("data.frame_rate_fps=4",))
    with pytest.raises(ConfigError, match=r"data\.frame_rate_fps must be the dataset's, got 4 and 8\.0"):
        num_window_starts(samples[0], config.data)


def test_batches_undecodable_sample_is_counted(samples, small_config, tmp_path):
    broken = replace(samples[0], mp4=b"not a video")
    source = BatchSource(
        ShardReader(write_dataset(tmp_path, [broken, samples[1], samples[2]])),
        small_config,
        rank=0,
        num_ranks=1,
    )
    keys = {key for batch in islice(source.batches(START), 3) for key in batch.keys}
    assert broken.key not in keys
    assert source.skipped.num_undecodable >= 1
    assert broken.key in source.skipped.last_message


def test_batches_nothing_long_enough_raises_config_error(samples, small_config, tmp_path):
    dataset_dir = write_dataset(tmp_path, [samples[7]])
    with pytest.raises(ConfigError, match="at least 2 s, got none: 1 too short"):
        batches(dataset_dir, small_config, num_batches=1)


def test_prefetch_keeps_the_order():
    items = prefetch(count(), num_ahead=3)
    assert list(islice(items, 5)) == [0, 1, 2, 3, 4]
    items.close()


def test_prefetch_error_reaches_the_caller():
    items = prefetch(iter([1]), num_ahead=2)
    assert next(items) == 1
    with pytest.raises(IntegrityError, match="must not end"):
        next(items)
