"""Stage: FetchedMedia -> a verdict for every span, and a bundle of the kept clips.

    probe -> screen -> decode once -> per window: measure -> (kept) crop, encode, append to the bundle

The source is opened once; only kept clips are encoded; memory holds one window.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from crawl.fetch import FetchedMedia
from crawl.items import SourceItem
from filters.registry import all_filters
from infra.errors import TooShort, Truncated, Undecodable
from infra.media import Probe
from infra.media.decode import DecodeLimits, DecodePlan, Decoder, Segment, open_decoder
from infra.media.encode import EncodePlan, encode_clip
from infra.units import frames_to_s, s_to_frames_floor
from pipeline.measure_clip import measure_clip
from pipeline.recipe import Recipe
from pipeline.records import (
    TOO_SHORT,
    Curated,
    CuratePart,
    EmbedInput,
    SourceOutcome,
    StagedClip,
    Verdict,
)
from pipeline.screen_source import Scores, screen_source
from pipeline.transcode_clip import crop_center, embed_pictures
from shards.manifest import ShardRecord
from shards.schema import StagedMeta
from shards.writer import ShardWriter

_SHORTEST_SPAN_S = 0.001
"""A span is never empty, also where the header does not state a duration."""
_MISSING_S = 1.0
_MISSING_RATIO = 0.02
"""A source may end this much before its header says: containers round, and streams end unevenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where and with what a source is curated."""

    root: Path
    work_dir: Path
    """Scratch of this worker alone."""
    ffmpeg: Path
    probe: Callable[[Path], Probe]


def bundle_key(source_id: str, recipe_id: str) -> str:
    """Path of a source's bundle below the root."""
    return f"staged/{source_id[:2]}/{source_id}-{recipe_id}.tar"


def curate_source(
    item: SourceItem, fetched: FetchedMedia, *, recipe: Recipe, workplace: Workplace
) -> Iterator[CuratePart]:
    """What the encoders need, part by part, and in the last part what became of the source.

    The bundle is in place when the last part appears. Until then there is none.

    Raises:
        MediaError: the source cannot be decoded whole.
    """
    path = workplace.root / fetched.media_key
    probe = workplace.probe(path)
    filters = all_filters()
    scores, reasons = screen_source(
        probe, filters=filters, bounds=recipe.bounds, min_duration_s=recipe.split.min_clip_s
    )
    if reasons:
        verdict = Verdict(
            source_id=item.source_id,
            start_s=item.span_start_s,
            end_s=max(min(item.span_end_s, probe.duration_s), item.span_start_s + _SHORTEST_SPAN_S),
            stage="screen",
            scores=scores,
            reject_reasons=reasons,
        )
        curated = Curated(probe=probe, verdicts=(verdict,), staged=(), bundle_key="")
        outcome = SourceOutcome(item=item, fetched=fetched, curated=curated)
        yield CuratePart(source_id=item.source_id, part_index=0, outcome=outcome)
        return
    yield from _curate_streams(item, fetched, probe, header_scores=scores, recipe=recipe, workplace=workplace)


def _curate_streams(
    item: SourceItem,
    fetched: FetchedMedia,
    probe: Probe,
    *,
    header_scores: Scores,
    recipe: Recipe,
    workplace: Workplace,
) -> Iterator[CuratePart]:
    """Decode, measure and encode a source that passed the header screen."""
    plan = DecodePlan(
        frame_rate_fps=recipe.transcode.frame_rate_fps,
        short_side_px=recipe.transcode.side_px,
        sample_rate_hz=recipe.transcode.sample_rate_hz,
        start_s=item.span_start_s,
        end_s=item.span_end_s,
    )
    limits = DecodeLimits(stall_s=recipe.media.stall_s, memory_mib=recipe.media.memory_mib)
    key = bundle_key(item.source_id, recipe.recipe_id)
    measure = partial(_verdict_of, item=item, probe=probe, header_scores=header_scores, recipe=recipe)
    verdicts: list[Verdict] = []
    pending: list[EmbedInput] = []
    bundle: ShardWriter | None = None
    num_parts = 0
    with ExitStack() as stack:
        path = workplace.root / fetched.media_key
        decoder = stack.enter_context(open_decoder(path, probe, plan, binary=workplace.ffmpeg, limits=limits))
        for segment in _windows(decoder, s_to_frames_floor(recipe.split.clip_s, plan.frame_rate_fps)):
            verdict = measure(segment)
            verdicts.append(verdict)
            if verdict.kept:
                bundle = bundle or stack.enter_context(ShardWriter(workplace.root / key))
                pending.append(
                    _write_clip(bundle, segment, verdict, fetched=fetched, recipe=recipe, place=workplace)
                )
            del segment  # The next window is read into the memory of this one.
            if len(pending) == recipe.embed.clips_per_batch:
                yield CuratePart(source_id=item.source_id, part_index=num_parts, inputs=tuple(pending))
                num_parts, pending = num_parts + 1, []
        decoded_s = decoder.finish()
        if not verdicts:
            raise TooShort(
                f"a source must decode to at least one frame with its sound, got none ({item.url})"
            )
        _require_whole(decoded_s, probe, item)
    # The bundle is in its place once the block has ended.
    curated = Curated(
        probe=probe,
        verdicts=tuple(verdicts),
        staged=_staged_clips(bundle.record) if bundle else (),
        bundle_key=key if bundle else "",
    )
    outcome = SourceOutcome(item=item, fetched=fetched, curated=curated)
    yield CuratePart(source_id=item.source_id, part_index=num_parts, inputs=tuple(pending), outcome=outcome)


def _windows(decoder: Decoder, num_frames: int) -> Iterator[Segment]:
    """Consecutive windows; the last one holds what is left."""
    while not decoder.ended:
        segment = decoder.read(num_frames)
        if segment.num_frames:
            yield segment
        del segment  # Not held while the next one is read.


def _verdict_of(
    segment: Segment, *, item: SourceItem, probe: Probe, header_scores: Scores, recipe: Recipe
) -> Verdict:
    rate_fps = recipe.transcode.frame_rate_fps
    start_s = item.span_start_s + frames_to_s(segment.start_frame, rate_fps)
    duration_s = frames_to_s(segment.num_frames, rate_fps)
    scores: Scores = ()
    reasons: tuple[str, ...] = (TOO_SHORT,)
    if duration_s >= recipe.split.min_clip_s:
        scores, reasons = measure_clip(
            segment,
            sample_rate_hz=probe.sample_rate_hz,
            frame_rate_fps=rate_fps,
            filters=all_filters(),
            bounds=recipe.bounds,
        )
    return Verdict(
        source_id=item.source_id,
        start_s=start_s,
        end_s=start_s + duration_s,
        stage="measure",
        scores=header_scores + scores,
        reject_reasons=reasons,
    )


def _write_clip(
    bundle: ShardWriter,
    segment: Segment,
    verdict: Verdict,
    *,
    fetched: FetchedMedia,
    recipe: Recipe,
    place: Workplace,
) -> EmbedInput:
    """Encode a kept clip into the bundle; return what its embeddings will be made from."""
    settings = recipe.transcode
    plan = EncodePlan(
        frame_rate_fps=settings.frame_rate_fps,
        side_px=settings.side_px,
        sample_rate_hz=settings.sample_rate_hz,
        x264_preset=settings.x264_preset,
        x264_crf=settings.x264_crf,
        keyframe_interval_frames=settings.keyframe_interval_frames,
        time_limit_s=recipe.media.stall_s,
    )
    square_NB = crop_center(segment, settings.side_px)
    encoded = encode_clip(square_NB, segment.output_S, plan, binary=place.ffmpeg, work_dir=place.work_dir)
    meta = StagedMeta(
        clip_id=verdict.clip_id,
        source_id=verdict.source_id,
        recipe_id=recipe.recipe_id,
        url=fetched.provenance.url,
        title=fetched.provenance.title,
        uploader=fetched.provenance.uploader,
        licence=fetched.provenance.licence,
        start_s=verdict.start_s,
        end_s=verdict.end_s,
        num_frames=segment.num_frames,
        frame_rate_fps=float(settings.frame_rate_fps),
        width_px=settings.side_px,
        height_px=settings.side_px,
        num_samples=len(segment.output_S),
        sample_rate_hz=settings.sample_rate_hz,
        scores=dict(verdict.scores),
    )
    bundle.write(verdict.clip_id, {"mp4": encoded.mp4, "flac": encoded.flac, "json": meta.to_json_bytes()})
    pictures_NHWC = embed_pictures(
        square_NB, side_px=settings.side_px, frame_rate_fps=settings.frame_rate_fps
    )
    return EmbedInput(clip_id=verdict.clip_id, rgb_NHWC=pictures_NHWC, mono_E=segment.embed_E)


def _require_whole(decoded_s: float, probe: Probe, item: SourceItem) -> None:
    """Raise unless the streams end about where the header says; a header that does not say is believed.

    Far too long is as wrong as too short: a jump in the time stamps is filled with still frames and silence.
    """
    if probe.duration_s == 0:
        return
    wanted_s = min(probe.duration_s, item.span_end_s) - item.span_start_s
    slack_s = max(_MISSING_S, _MISSING_RATIO * wanted_s)
    if decoded_s > wanted_s + slack_s:
        raise Undecodable(
            f"a source must decode to the {wanted_s:.2f} s that its header promises,"
            f" got {decoded_s:.2f} s ({item.url})"
        )
    if decoded_s + slack_s < wanted_s:
        raise Truncated(
            f"a source must decode to the {wanted_s:.2f} s that its header promises,"
            f" got {decoded_s:.2f} s ({item.url})"
        )


def _staged_clips(record: ShardRecord) -> tuple[StagedClip, ...]:
    return tuple(StagedClip(clip_id=key, members=members) for key, members in record.by_key().items())
