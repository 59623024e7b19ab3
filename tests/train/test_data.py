from collections import Counter
from dataclasses import fields, replace
from itertools import chain, count, islice

import pytest
import torch

from infra.errors import ConfigError, IntegrityError
from shards.read_state import ReadState
from shards.reader import ShardReader
from tests.train.conftest import write_dataset
from train.config import load_train_config
from train.data import (
    Batch,
    BatchSource,
    SampleStream,
    make_example,
    num_window_starts,
    prefetch,
    with_embedding_widths,
)

START = ReadState.start(seed=0)


def batches(dataset_dir, config, *, num_batches, start=START, rank=0, num_ranks=1) -> list[Batch]:
    source = BatchSource(ShardReader.opened(dataset_dir), config, rank=rank, num_ranks=num_ranks)
    return list(islice(source.batches(start), num_batches))


def assert_same(one: Batch, two: Batch) -> None:
    for field in fields(Batch):
        left, right = getattr(one, field.name), getattr(two, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def keys_of(read: list[Batch]) -> list[str]:
    return [key for batch in read for key in batch.keys]


def test_batches_have_the_shapes_of_the_recipe(dataset_dir, small_config):
    batch = next(batch for batch in batches(dataset_dir, small_config, num_batches=2) if len(batch.keys) == 2)
    assert batch.latents_BTCYX.shape == batch.video_noise_BTCYX.shape == (2, 16, 4, 4, 4)
    assert batch.mel_BFM.shape == batch.audio_noise_BFM.shape == (2, 126, 80)
    assert (batch.clip_BND.shape, batch.clap_BD.shape) == ((2, 2, 768), (2, 512))
    assert batch.latents_BTCYX.isfinite().all()
    assert batch.mel_BFM.isfinite().all()


def test_batches_leave_out_and_count_short_clips(dataset_dir, small_config):
    source = BatchSource(ShardReader.opened(dataset_dir), small_config, rank=0, num_ranks=1)
    read = Counter(keys_of(list(islice(source.batches(START), 8))))  # Two epochs of four steps.
    assert read == {f"source{index}-00000000-00003000": 2 for index in range(7)}
    assert (source.skipped.num_too_short, source.skipped.num_undecodable) == (2, 0)


def test_batches_from_a_state_continue_bitwise(dataset_dir, small_config):
    whole = batches(dataset_dir, small_config, num_batches=7)
    resumed = batches(dataset_dir, small_config, num_batches=3, start=whole[3].state)
    for one, two in zip(whole[4:], resumed, strict=True):
        assert_same(one, two)


def test_batches_resumed_on_other_numbers_of_ranks_see_every_sample_once(dataset_dir, small_config):
    config = small_config.model_copy(update={"rank_batch_samples": 1})
    state, read = START, []
    for num_ranks, num_steps in ((2, 1), (1, 3), (3, 1)):  # All eight samples of the epoch.
        by_rank = [
            batches(dataset_dir, config, num_batches=num_steps, start=state, rank=rank, num_ranks=num_ranks)
            for rank in range(num_ranks)
        ]
        states = {steps[-1].state for steps in by_rank}
        assert states == {state.advanced(num_steps * num_ranks)}
        [state] = states
        state = ReadState.from_json(state.to_json())
        read += keys_of(list(chain.from_iterable(by_rank)))
    assert Counter(read) == {f"source{index}-00000000-00003000": 1 for index in range(7)}
    [after] = batches(dataset_dir, config, num_batches=1, start=state)
    assert (after.state.epoch, after.state.position) == (1, 1)


def test_batches_the_end_of_an_epoch_that_is_less_than_a_step_is_left_out(dataset_dir, small_config):
    config = small_config.model_copy(update={"rank_batch_samples": 3})
    states = [batch.state for batch in batches(dataset_dir, config, num_batches=3)]
    assert [(state.epoch, state.position) for state in states] == [(0, 3), (0, 6), (1, 3)]


def test_batches_without_a_usable_sample_hold_one_that_does_not_count(samples, small_config, tmp_path):
    dataset_dir = write_dataset(tmp_path, [samples[0], samples[7]])
    config = small_config.model_copy(update={"rank_batch_samples": 1})
    empty, full = sorted(batches(dataset_dir, config, num_batches=2), key=lambda batch: batch.keys)
    assert (empty.keys, full.keys) == ((), (samples[0].key,))
    for field in fields(Batch):
        left, right = getattr(empty, field.name), getattr(full, field.name)
        if isinstance(left, torch.Tensor):
            assert (left.shape, left.dtype) == (right.shape, right.dtype), field.name
            assert left.isfinite().all()


def test_batches_damaged_samples_are_left_out_and_counted(samples, small_config, tmp_path):
    dataset_dir = write_dataset(tmp_path, samples[:4])
    path = dataset_dir / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-12_000])
    reader = ShardReader.opened(dataset_dir, max_skipped_ratio=0.5)
    source = BatchSource(reader, small_config, rank=0, num_ranks=1)
    read = list(islice(source.batches(START), 2))
    assert sorted(keys_of(read)) == [sample.key for sample in samples[:3]]
    assert sorted(batch.num_left_out for batch in read) == [(0, 0, 0), (1, 0, 0)]
    assert with_embedding_widths(small_config, reader).model.clip_channels == 768


def test_batches_too_much_damage_raises_integrity_error(samples, small_config, tmp_path):
    dataset_dir = write_dataset(tmp_path, samples[:2])
    (dataset_dir / "train-000000.tar").unlink()
    with pytest.raises(IntegrityError, match=r"train-000000\.tar"):
        batches(dataset_dir, small_config, num_batches=1)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_sample_stream_any_number_of_loader_workers_gives_the_same_batches(dataset_dir, num_workers):
    reader, state = ShardReader.opened(dataset_dir), START.advanced(1)
    stream = SampleStream(reader, state, rank=1, num_ranks=2, batch_positions=2)
    loader = torch.utils.data.DataLoader(
        stream,
        batch_size=2,
        num_workers=num_workers,
        collate_fn=list,
        multiprocessing_context="fork" if num_workers else None,
    )
    keys = [item.key for item in reader.stream(state, rank=1, num_ranks=2)]
    assert [[item.key for item in batch] for batch in loader] == [keys[:2], keys[2:]]


def test_make_example_does_not_depend_on_the_rank(dataset_dir, small_config):
    alone = {}
    for batch in batches(dataset_dir, small_config, num_batches=4):
        alone |= {key: (batch, row) for row, key in enumerate(batch.keys)}
    [shared] = batches(dataset_dir, small_config, num_batches=1, rank=1, num_ranks=2)
    assert shared.state.epoch == 0
    assert shared.keys
    for row, key in enumerate(shared.keys):
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
        ShardReader.opened(write_dataset(tmp_path, [broken, samples[1], samples[2]])),
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
    config = small_config.model_copy(update={"rank_batch_samples": 1})
    with pytest.raises(ConfigError, match="at least 2 s, got none: 1 too short"):
        batches(dataset_dir, config, num_batches=2)


def test_prefetch_keeps_the_order():
    items = prefetch(count(), num_ahead=3)
    assert list(islice(items, 5)) == [0, 1, 2, 3, 4]
    items.close()


def test_prefetch_error_reaches_the_caller():
    items = prefetch(iter([1]), num_ahead=2)
    assert next(items) == 1
    with pytest.raises(IntegrityError, match="must not end"):
        next(items)
