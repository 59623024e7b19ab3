"""Samples of a dataset -> batches of latents, mel, embeddings and their noise.

Shapes: B batch, T latent frames, C latent channels, Y rows, X columns, F mel frames, M mel bins,
N CLIP embeddings, D embedding channels.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from infra.errors import ConfigError, IntegrityError, MediaError
from infra.units import frames_to_samples
from model.latents import encode_frames
from model.mel import SAMPLE_RATE_HZ, log_mel_FM, normalise_log_mel
from shards.read_state import ReadState
from shards.reader import ShardReader, Skipped
from shards.schema import Sample
from train.config import DataConfig, TrainConfig
from train.counter_noise import SampleNoise, counter_choice, draw_sample_noise
from train.decode import decode_audio, decode_frames

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is cut from a clip, decoded."""

    key: str
    frames_NHW3: Tensor
    audio_T: Tensor
    clip_ND: Tensor
    clap_D: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training sample: a window of a clip as the model sees it, and its noise."""

    key: str
    latents_TCYX: Tensor
    mel_FM: Tensor
    clip_ND: Tensor
    clap_D: Tensor
    noise: SampleNoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Training samples of one step on one rank, stacked: those of its positions that can be trained on.

    When none of them can, `keys` is empty and the tensors hold one made-up sample that must not count: the rank
    still has to take part in the step.
    """

    keys: tuple[str, ...]
    latents_BTCYX: Tensor
    mel_BFM: Tensor
    clip_BND: Tensor
    clap_BD: Tensor
    video_noise_BTCYX: Tensor
    audio_noise_BFM: Tensor
    video_t_B: Tensor
    audio_t_B: Tensor
    keeps_clip_B: Tensor
    keeps_clap_B: Tensor
    num_left_out: tuple[int, int, int]
    """Positions of this batch that are not trained on: in damaged shards, too short, undecodable."""
    state: ReadState
    """Where the reading of all ranks stands after this step."""


@dataclass(slots=True)
class SkippedSamples:
    """Counts of samples that were not trained on, by reason."""

    num_unreadable: int = 0
    num_too_short: int = 0
    num_undecodable: int = 0
    last_message: str = field(default="")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Unreadable, too short, undecodable."""
        return self.num_unreadable, self.num_too_short, self.num_undecodable


def with_embedding_widths(config: TrainConfig, reader: ShardReader) -> TrainConfig:
    """The recipe with the model's inputs as wide as the embeddings of the dataset.

    Encoders differ in width, and one dataset comes from one pair of them: its first whole sample tells.

    Raises:
        IntegrityError: no sample is whole.
    """
    with closing(reader.stream(ReadState.start(seed=0))) as items:
        sample = next((item for item in items if isinstance(item, Sample)), None)
    if sample is None:
        raise IntegrityError("a dataset must have a sample that is whole, got none; run `avgen repair`")
    model = replace(
        config.model,
        clip_channels=sample.clip_embedding_ND.shape[1],
        clap_channels=sample.clap_embedding_D.shape[0],
    )
    return config.model_copy(update={"model": model})


def num_window_starts(sample: Sample, config: DataConfig) -> int:
    """Whole seconds at which a window can begin so that frames, audio and CLIP rows are all there; 0 is none.

    Raises:
        ConfigError: the clip's frame rate is not the recipe's.
    """
    meta = sample.meta
    if meta.frame_rate_fps != config.frame_rate_fps:
        raise ConfigError(
            f"data.frame_rate_fps must be the dataset's, got {config.frame_rate_fps} and "
            f"{meta.frame_rate_fps} (sample {sample.key}); change the recipe or pack again"
        )
    seconds_of_video = meta.num_frames // config.frame_rate_fps
    seconds_of_audio = meta.num_samples // SAMPLE_RATE_HZ
    seconds = min(seconds_of_video, seconds_of_audio, len(sample.clip_embedding_ND))
    return max(0, seconds - config.window_s + 1)


def make_example(sample: Sample, *, epoch: int, num_starts: int, config: TrainConfig) -> Example:
    """The window of a sample that its key and the epoch choose, decoded and encoded, with its noise.

    Raises:
        MediaError: the sample's media does not decode.
    """
    data = config.data
    start_s = counter_choice(config.seed, sample.key, epoch, purpose="window", num_choices=num_starts)
    first_frame = start_s * data.frame_rate_fps
    first_sample = frames_to_samples(first_frame, sample_rate_hz=SAMPLE_RATE_HZ, frame_rate_fps=data.fps)
    frames_NHW3 = decode_frames(
        sample.mp4,
        first_frame=first_frame,
        num_frames=data.num_frames,
        frame_px=data.frame_px,
        sample_key=sample.key,
    )
    audio_T = decode_audio(
        sample.flac, first_sample=first_sample, num_samples=data.num_samples, sample_key=sample.key
    )
    window = Window(
        key=sample.key,
        frames_NHW3=frames_NHW3,
        audio_T=audio_T,
        clip_ND=torch.from_numpy(sample.clip_embedding_ND[start_s : start_s + data.window_s]).float(),
        clap_D=torch.from_numpy(sample.clap_embedding_D).float(),
    )
    return _encode(window, epoch=epoch, config=config)


def make_stand_in(config: TrainConfig) -> Example:
    """A black and silent example, of the shape of every other."""
    data, model = config.data, config.model
    window = Window(
        key="stand-in",
        frames_NHW3=torch.zeros(data.num_frames, data.frame_px, data.frame_px, 3, dtype=torch.uint8),
        audio_T=torch.zeros(data.num_samples),
        clip_ND=torch.zeros(data.window_s, model.clip_channels),
        clap_D=torch.zeros(model.clap_channels),
    )
    return _encode(window, epoch=0, config=config)


def _encode(window: Window, *, epoch: int, config: TrainConfig) -> Example:
    latents_TCYX = encode_frames(window.frames_NHW3)
    num_mel_frames = config.data.num_mel_frames(config.model.mel_patch_frames)
    mel_FM = normalise_log_mel(log_mel_FM(window.audio_T))[:num_mel_frames]
    return Example(
        key=window.key,
        latents_TCYX=latents_TCYX,
        mel_FM=mel_FM,
        clip_ND=window.clip_ND,
        clap_D=window.clap_D,
        noise=draw_sample_noise(
            config.seed,
            window.key,
            epoch,
            video_shape=tuple(latents_TCYX.shape),
            audio_shape=tuple(mel_FM.shape),
            dropout_ratio=config.data.conditioning_dropout_ratio,
        ),
    )


def stack_examples(
    examples: list[Example], *, keys: tuple[str, ...], num_left_out: tuple[int, int, int], state: ReadState
) -> Batch:
    """Examples as one batch."""
    noises = [example.noise for example in examples]
    return Batch(
        keys=keys,
        latents_BTCYX=torch.stack([example.latents_TCYX for example in examples]),
        mel_BFM=torch.stack([example.mel_FM for example in examples]),
        clip_BND=torch.stack([example.clip_ND for example in examples]),
        clap_BD=torch.stack([example.clap_D for example in examples]),
        video_noise_BTCYX=torch.stack([noise.video_TCYX for noise in noises]),
        audio_noise_BFM=torch.stack([noise.audio_FM for noise in noises]),
        video_t_B=torch.stack([noise.video_t for noise in noises]),
        audio_t_B=torch.stack([noise.audio_t for noise in noises]),
        keeps_clip_B=torch.tensor([noise.keeps_clip for noise in noises]),
        keeps_clap_B=torch.tensor([noise.keeps_clap for noise in noises]),
        num_left_out=num_left_out,
        state=state,
    )


class BatchSource:
    """Endless batches of one rank, epoch after epoch, from a state on.

    A step takes `rank_batch_samples` positions of the epoch on every rank. What cannot be trained on is left out
    of the batch, not replaced: so the state is one number for all ranks, and any number of them can go on from it.
    The end of an epoch that is less than a step is left out, too.
    """

    def __init__(self, reader: ShardReader, config: TrainConfig, *, rank: int, num_ranks: int) -> None:
        self._reader = reader
        self._config = config
        self._rank = rank
        self._num_ranks = num_ranks
        self.skipped = SkippedSamples()

    def batches(self, start: ReadState) -> Iterator[Batch]:
        """Batches from `start` on.

        Raises:
            ConfigError: a whole epoch of this rank holds no sample that can be trained on.
            IntegrityError: more of the dataset is damaged than its reader allows.
        """
        state = start
        while True:
            num_usable = 0
            for batch in self._rest_of_epoch(state):
                num_usable += len(batch.keys)
                yield batch
            # The rest of the epoch that a run resumes in may be empty; a whole epoch may not.
            if num_usable == 0 and state.position == 0:
                self._refuse()
            state = state.next_epoch()

    def _rest_of_epoch(self, state: ReadState) -> Iterator[Batch]:
        rank_positions = self._config.rank_batch_samples
        step_positions = rank_positions * self._num_ranks
        num_steps = (self._reader.num_samples - state.position) // step_positions
        with closing(self._reader.stream(state, rank=self._rank, num_ranks=self._num_ranks)) as items:
            for _ in range(num_steps):
                state = state.advanced(step_positions)
                yield self._batch(list(islice(items, rank_positions)), state)

    def _batch(self, items: list[Sample | Skipped], state: ReadState) -> Batch:
        before = self.skipped.counts
        samples = [item for item in items if isinstance(item, Sample)]
        self.skipped.num_unreadable += len(items) - len(samples)
        made = [self._example(sample, state.epoch) for sample in samples]
        examples = [example for example in made if example is not None]
        unreadable, too_short, undecodable = (
            new - old for new, old in zip(self.skipped.counts, before, strict=True)
        )
        return stack_examples(
            examples or [make_stand_in(self._config)],
            keys=tuple(example.key for example in examples),
            num_left_out=(unreadable, too_short, undecodable),
            state=state,
        )

    def _example(self, sample: Sample, epoch: int) -> Example | None:
        """The example, or None when the sample cannot be trained on, which is counted."""
        num_starts = num_window_starts(sample, self._config.data)
        if num_starts == 0:
            self.skipped.num_too_short += 1
            return None
        try:
            return make_example(sample, epoch=epoch, num_starts=num_starts, config=self._config)
        except MediaError as err:
            self.skipped.num_undecodable += 1
            self.skipped.last_message = str(err)
            return None

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"an epoch must hold samples of at least {self._config.data.window_s} s, got none: "
            f"{self.skipped.num_too_short} too short, {self.skipped.num_unreadable} unreadable, "
            f"{self.skipped.num_undecodable} undecodable {self.skipped.last_message}".rstrip()
        )


class SampleStream(IterableDataset[Sample | Skipped]):
    """The stream of a rank for torch's `DataLoader`: the same items in the same order for any `num_workers`.

    The loader's `batch_size` must be `batch_positions`. Where the dataset is in an object store, its workers must
    be spawned, not forked.
    """

    def __init__(
        self, reader: ShardReader, state: ReadState, *, rank: int, num_ranks: int, batch_positions: int
    ) -> None:
        self._reader = reader
        self._state = state
        self._share = {"rank": rank, "num_ranks": num_ranks, "batch_positions": batch_positions}

    def __iter__(self) -> Iterator[Sample | Skipped]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        return self._reader.stream(self._state, worker=worker, num_workers=num_workers, **self._share)


def prefetch(items: Iterator[Item], *, num_ahead: int) -> Generator[Item, None, None]:
    """The same items, made by one thread while the caller works on those before."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        pending = [pool.submit(_next_of(items)) for _ in range(num_ahead)]
        try:
            while True:
                item = pending.pop(0).result()
                pending.append(pool.submit(_next_of(items)))
                yield item
        finally:
            for future in pending:
                future.cancel()


def _next_of(items: Iterator[Item]) -> Callable[[], Item]:
    def take() -> Item:
        try:
            return next(items)
        except StopIteration as err:
            raise IntegrityError("the stream of batches must not end") from err

    return take
