"""Samples of a dataset -> batches of latents, mel, embeddings and their noise.

Shapes: B batch, T latent frames, C latent channels, Y rows, X columns, F mel frames, M mel bins,
N CLIP embeddings, D embedding channels.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from infra.errors import ConfigError, IntegrityError, MediaError
from infra.units import frames_to_samples
from model.latents import encode_frames
from model.mel import SAMPLE_RATE_HZ, log_mel_FM, normalise_log_mel
from shards.reader import ShardReader
from shards.schema import Sample
from train.config import DataConfig, TrainConfig
from train.counter_noise import SampleNoise, counter_choice, draw_sample_noise
from train.decode import decode_audio, decode_frames

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far one rank has read: the first `num_read` samples of its part of `epoch` are done."""

    epoch: int
    num_read: int


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
    """Training samples of one step on one rank, stacked."""

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
    position: Position
    """Where the rank's reading stands after this batch."""


@dataclass(slots=True)
class SkippedSamples:
    """Counts of samples that were read and not trained on, by reason."""

    num_too_short: int = 0
    num_undecodable: int = 0
    last_message: str = field(default="")


def with_embedding_widths(config: TrainConfig, reader: ShardReader) -> TrainConfig:
    """The recipe with the model's inputs as wide as the embeddings of the dataset.

    Encoders differ in width, and one dataset comes from one pair of them: its first sample tells.
    """
    sample = reader.sample(reader.manifest.shards[0].members[0].key)
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
    latents_TCYX = encode_frames(frames_NHW3)
    mel_FM = normalise_log_mel(log_mel_FM(audio_T))[: data.num_mel_frames(config.model.mel_patch_frames)]
    return Example(
        key=sample.key,
        latents_TCYX=latents_TCYX,
        mel_FM=mel_FM,
        clip_ND=torch.from_numpy(sample.clip_embedding_ND[start_s : start_s + data.window_s]).float(),
        clap_D=torch.from_numpy(sample.clap_embedding_D).float(),
        noise=draw_sample_noise(
            config.seed,
            sample.key,
            epoch,
            video_shape=tuple(latents_TCYX.shape),
            audio_shape=tuple(mel_FM.shape),
            dropout_ratio=data.conditioning_dropout_ratio,
        ),
    )


def stack_examples(examples: list[Example], position: Position) -> Batch:
    """Examples as one batch."""
    noises = [example.noise for example in examples]
    return Batch(
        keys=tuple(example.key for example in examples),
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
        position=position,
    )


class BatchSource:
    """Endless batches of one rank, epoch after epoch, from a position on."""

    def __init__(self, reader: ShardReader, config: TrainConfig, *, rank: int, num_ranks: int) -> None:
        self._reader = reader
        self._config = config
        self._rank = rank
        self._num_ranks = num_ranks
        self.skipped = SkippedSamples()

    def batches(self, start: Position) -> Iterator[Batch]:
        """Batches from `start` on; a batch may span the end of an epoch.

        Raises:
            ConfigError: a whole epoch of this rank holds no sample that can be trained on.
            IntegrityError: a shard is damaged.
        """
        examples: list[Example] = []
        for example, position in self._examples(start):
            examples.append(example)
            if len(examples) == self._config.rank_batch_samples:
                yield stack_examples(examples, position)
                examples = []

    def _examples(self, start: Position) -> Iterator[tuple[Example, Position]]:
        epoch, num_read = start.epoch, start.num_read
        while True:
            num_usable = 0
            for sample in self._reader.samples(
                rank=self._rank,
                num_ranks=self._num_ranks,
                seed=self._config.seed,
                epoch=epoch,
                start_index=num_read,
            ):
                num_read += 1
                example = self._example(sample, epoch)
                if example is not None:
                    num_usable += 1
                    yield example, Position(epoch=epoch, num_read=num_read)
            if num_usable == 0:
                self._refuse_unless_resumed(epoch, start)
            epoch, num_read = epoch + 1, 0

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

    def _refuse_unless_resumed(self, epoch: int, start: Position) -> None:
        """The rest of the epoch that a run resumes in may be empty; a whole epoch may not."""
        if epoch == start.epoch and start.num_read > 0:
            return
        raise ConfigError(
            f"an epoch must hold samples of at least {self._config.data.window_s} s, got none: "
            f"{self.skipped.num_too_short} too short, {self.skipped.num_undecodable} undecodable "
            f"{self.skipped.last_message}".rstrip()
        )


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
