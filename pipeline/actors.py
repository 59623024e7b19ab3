"""The workers of an ingest run: plain classes that Ray runs as actors, and tests run in their own process.

    FetchJob -> FetchActor -> CurateActor -> EmbedActor -> FinishedSource (put together in the driver)

Rows hold one record under one key. Frames do not travel, but for the few pictures that an embedding needs.
An error that ends the run is a record, too, and is raised in the driver: Ray would hand over its text alone.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crawl.blocklist import Blocklist
from crawl.fetch import FetchedMedia, Fetcher
from crawl.frontier import FetchJob
from crawl.items import SourceItem
from crawl.politeness import Desk
from crawl.web import Web
from infra.errors import AvgenError, ConfigError, Deferred, MediaError, TransientError
from infra.media.child import find_ffmpeg
from infra.media.reader import MediaReader, ReadLimits
from infra.root import Root
from pipeline.curate_source import Workplace, curate_source
from pipeline.earlier_passes import EarlierPass, EarlierPasses
from pipeline.embed_clips import Encoder, embed_clips
from pipeline.feed import JobReports
from pipeline.recipe import EmbedConfig, Recipe
from pipeline.records import CuratePart, EmbeddedPart, Failed, FinishedSource, SourceOutcome
from pipeline.runner import failure, run_parts

RECORD = "record"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlace:
    """All that one fetching worker is given; it travels to the worker's process."""

    recipe: Recipe
    root: Root
    desk: Desk
    feed: JobReports
    blocklist: Blocklist
    earlier: EarlierPasses | None = None
    """What the sources of the run have from earlier passes over them."""


class FetchActor:
    """FetchJob -> (item, FetchedMedia) or a failed outcome, one an item. Any number of threads may call it."""

    def __init__(self, place: FetchPlace) -> None:
        self._feed, self._earlier, self._root = place.feed, place.earlier, place.root
        self._web = Web.opened(place.recipe.fetch, place.desk, on_pause=place.feed.pause)
        self._fetcher = Fetcher(self._web, root=place.root, ffmpeg=find_ffmpeg(), blocklist=place.blocklist)

    def __call__(self, row: Row) -> Iterator[Row]:
        """Fetch one job; nothing comes of one that was put off."""
        job: FetchJob = row[RECORD]
        num_bytes = 0
        try:
            media = self._kept_media(job) or self._fetcher.fetch(job, now=lambda: datetime.now(UTC))
        except Deferred as err:
            self._feed.defer(job, until_s=err.until_s)
            return
        except (MediaError, TransientError) as err:
            yield from ({RECORD: self._failed(item, err)} for item in job.items)
        except AvgenError as err:
            yield {RECORD: err}
        else:
            num_bytes = sum({file.sha256: file.media_bytes for file in media if file.is_new}.values())
            yield from ({RECORD: pair} for pair in zip(job.items, media, strict=True))
        self._feed.fetched(job.job_id, num_bytes=num_bytes)

    def _kept_media(self, job: FetchJob) -> Sequence[FetchedMedia] | None:
        return self._earlier.media(job, self._root) if self._earlier else None

    def _failed(self, item: SourceItem, err: AvgenError) -> SourceOutcome:
        failed = failure("fetch", err, subject_id=item.source_id, scrub=self._web.identity.scrub)
        return SourceOutcome(item=item, failed=failed)

    def close(self) -> None:
        """End the connections and processes of this worker."""
        self._web.close()


def gather_sources(parts: Iterator[EmbeddedPart]) -> Iterator[FinishedSource]:
    """Put the parts of each source together again, whatever order they arrive in.

    The part with the outcome has the highest index, so a source is whole when that many others are there.
    """
    waiting: dict[str, dict[int, EmbeddedPart]] = {}
    for part in parts:
        arrived = waiting.setdefault(part.source_id, {})
        arrived[part.part_index] = part
        last = arrived[max(arrived)]
        if last.outcome is None or len(arrived) <= last.part_index:
            continue
        del waiting[part.source_id]
        embeddings = tuple(vector for index in sorted(arrived) for vector in arrived[index].embeddings)
        yield FinishedSource(outcome=last.outcome, embeddings=() if last.outcome.failed else embeddings)
    assert not waiting, "every source ends with an outcome"


class CurateActor:
    """(item, FetchedMedia) -> CurateParts. Owns the reading child of its process."""

    def __init__(
        self, *, recipe: Recipe, root: Root | Path, work_dir: Path, earlier: EarlierPasses | None = None
    ) -> None:
        self._recipe, self._earlier = recipe, earlier
        scratch = work_dir / f"curate-{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        self._place = open_workplace(recipe, root=root, work_dir=scratch)

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Curate one source; its parts appear while it is decoded."""
        record = row[RECORD]
        if isinstance(record, AvgenError):
            yield row
        elif isinstance(record, SourceOutcome):
            yield {RECORD: CuratePart(source_id=record.item.source_id, part_index=0, outcome=record)}
        else:
            try:
                for part in self._parts(*record):
                    yield {RECORD: part}
            except AvgenError as err:
                yield {RECORD: err}

    def close(self) -> None:
        """End the reading child."""
        self._place.reader.close()

    def _parts(self, item: SourceItem, fetched: FetchedMedia) -> Iterator[CuratePart]:
        earlier = self._earlier.of(item.source_id) if self._earlier else EarlierPass()
        parts = curate_source(item, fetched, recipe=self._recipe, workplace=self._place, earlier=earlier)
        results = run_parts("curate", parts, subject_id=item.source_id)
        for part_index, part in enumerate(results):
            if isinstance(part, Failed):
                outcome = SourceOutcome(item=item, fetched=fetched, failed=part)
                yield CuratePart(source_id=item.source_id, part_index=part_index, outcome=outcome)
            else:
                yield part


class EmbedActor:
    """CuratePart -> EmbeddedPart. Holds the encoders, on the GPU that it was given if any.

    They are loaded while the first sources are fetched. When they cannot be, the first part ends the run.
    """

    def __init__(self, *, config: EmbedConfig, use_gpu: bool) -> None:
        self._encoders: tuple[Encoder, Encoder] | ConfigError
        try:
            self._encoders = load_encoders(config, device="cuda" if use_gpu else "cpu")
        except ConfigError as err:
            self._encoders = err

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed the clips of one part."""
        if isinstance(row[RECORD], AvgenError):
            return row
        if isinstance(self._encoders, ConfigError):
            return {RECORD: self._encoders}
        try:
            return {RECORD: self._embedded(row[RECORD], *self._encoders)}
        except AvgenError as err:
            return {RECORD: err}

    def _embedded(self, part: CuratePart, pictures: Encoder, sounds: Encoder) -> EmbeddedPart:
        return EmbeddedPart(
            source_id=part.source_id,
            part_index=part.part_index,
            embeddings=embed_clips(part.inputs, pictures=pictures, sounds=sounds) if part.inputs else (),
            outcome=part.outcome,
        )


def open_workplace(recipe: Recipe, *, root: Root | Path, work_dir: Path) -> Workplace:
    """All that one worker needs to curate sources, one at a time, on one core.

    Raises:
        ConfigError: the speech model is not installed.
    """
    import cv2

    from model.encoders.speech import load_speech

    cv2.setNumThreads(1)
    limits = ReadLimits(stall_s=recipe.media.stall_s, memory_mib=recipe.media.memory_mib)
    speech = load_speech()
    reader = MediaReader(limits)
    return Workplace(root=Root.of(root), work_dir=work_dir, reader=reader, speech=speech.probabilities)


def load_encoders(config: EmbedConfig, *, device: str) -> tuple[Encoder, Encoder]:
    """The picture encoder and the sound encoder that a recipe names.

    Raises:
        ConfigError: the named weights cannot be loaded.
    """
    import torch

    from model.encoders.clap import load_clap
    from model.encoders.clip import load_clip

    torch.set_num_threads(1)  # The number of threads changes the last bits of a sum.
    pictures = load_clip(config.clip_model, config.clip_weights, device)
    sounds = load_clap(config.clap_model, config.clap_weights, device)
    return pictures, sounds
