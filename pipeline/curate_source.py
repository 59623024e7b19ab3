"""Stage: FetchedMedia -> a verdict for every span, and a bundle of the kept clips.

    probe -> screen -> per clip: sound -> key frames -> all frames -> (kept) crop, encode, append to the bundle

The source is read once; what a clip was rejected for ends the work on it; memory holds one window.
C channels, T samples, N frames, B bytes of a frame, E samples for the encoders, S samples that are written.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from crawl.fetch import FetchedMedia
from crawl.items import SourceItem
from filters.registry import all_filters
from infra.errors import TooShort, Truncated, Undecodable
from infra.media import Probe
from infra.media.encode import EncodePlan, encode_flac, encode_mp4
from infra.media.reader import MediaReader, MediaSource, ReadPlan
from infra.media.resample import EMBED_RATE_HZ, to_int16
from infra.units import frames_to_s, s_to_frames_floor
from pipeline.candidate import Candidate, SpeechDetector
from pipeline.embed_pictures import embed_pictures, middle_frames
from pipeline.frame_square import draw_squares, plan_square
from pipeline.measure_clip import measure_clip
from pipeline.recipe import Recipe
from pipeline.records import (
    MAX_CLIPS,
    TOO_SHORT,
    Curated,
    CuratePart,
    EmbedInput,
    SourceOutcome,
    StagedClip,
    Verdict,
)
from pipeline.screen_source import Scores, screen_source
from pipeline.split_source import MARGIN_FRAMES, shot_frames
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
    reader: MediaReader
    speech: SpeechDetector


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
    probe = workplace.reader.probe(workplace.root / fetched.media_key)
    scores, reasons = screen_source(
        probe, filters=all_filters(), bounds=recipe.bounds, min_duration_s=recipe.split.min_clip_s
    )
    if not reasons:
        curating = _Curating(item, fetched, probe, header_scores=scores, recipe=recipe, place=workplace)
        yield from curating.parts()
        return
    verdict = Verdict(
        source_id=item.source_id,
        start_s=item.span_start_s,
        end_s=max(
            min(item.span_end_s, fetched.media_start_s + probe.duration_s),
            item.span_start_s + _SHORTEST_SPAN_S,
        ),
        stage="screen",
        scores=scores,
        reject_reasons=reasons,
    )
    curated = Curated(probe=probe, verdicts=(verdict,), staged=(), bundle_key="")
    outcome = SourceOutcome(item=item, fetched=fetched, curated=curated)
    yield CuratePart(source_id=item.source_id, part_index=0, outcome=outcome)


class _Curating:
    """A source that passed the header screen on its way through the other steps."""

    def __init__(
        self,
        item: SourceItem,
        fetched: FetchedMedia,
        probe: Probe,
        *,
        header_scores: Scores,
        recipe: Recipe,
        place: Workplace,
    ) -> None:
        self._item, self._fetched, self._probe = item, fetched, probe
        self._header_scores, self._recipe, self._place = header_scores, recipe, place
        self._rate_fps = recipe.transcode.frame_rate_fps
        self._verdicts: list[Verdict] = []

    def parts(self) -> Iterator[CuratePart]:
        """Decode, measure and encode; the last part holds the outcome."""
        source_id, recipe = self._item.source_id, self._recipe
        key = bundle_key(source_id, recipe.recipe_id)
        pending: list[EmbedInput] = []
        num_parts = 0
        with ExitStack() as stack:
            path = self._place.root / self._fetched.media_key
            source = stack.enter_context(self._place.reader.open(path, self._probe, self._plan()))
            bundle: ShardWriter | None = None
            for clip in self._clips(source):
                verdict = self._verdict(clip)
                self._verdicts.append(verdict)
                if not verdict.kept:
                    continue
                bundle = bundle or stack.enter_context(ShardWriter(self._place.root / key))
                pending.append(self._write(bundle, clip, verdict))
                if len(pending) == recipe.embed.clips_per_batch:
                    yield CuratePart(source_id=source_id, part_index=num_parts, inputs=tuple(pending))
                    num_parts, pending = num_parts + 1, []
            self._account_for_rest(source.finish())
        # The bundle is in its place once the block has ended.
        curated = Curated(
            probe=self._probe,
            verdicts=tuple(self._verdicts),
            staged=_staged_clips(bundle.record) if bundle else (),
            bundle_key=key if bundle else "",
        )
        outcome = SourceOutcome(item=self._item, fetched=self._fetched, curated=curated)
        yield CuratePart(source_id=source_id, part_index=num_parts, inputs=tuple(pending), outcome=outcome)

    def _plan(self) -> ReadPlan:
        margin_frames = MARGIN_FRAMES if self._recipe.split.mode == "shots" else 0
        return ReadPlan(
            frame_rate_fps=self._rate_fps,
            short_side_px=self._recipe.transcode.side_px,
            window_frames=self._clip_frames + margin_frames,
            start_s=self._item.span_start_s - self._fetched.media_start_s,
            end_s=self._item.span_end_s - self._fetched.media_start_s,
        )

    @property
    def _clip_frames(self) -> int:
        return s_to_frames_floor(self._recipe.split.clip_s, self._rate_fps)

    def _clips(self, source: MediaSource) -> Iterator[Candidate]:
        """Candidate clips in order; each must be done with before the next is asked for."""
        split = self._recipe.split
        first, num_kept = 0, 0
        while num_kept < split.max_clips_per_source:
            sound = source.sound()
            if not sound.num_frames:
                return
            num_frames = min(sound.num_frames, self._clip_frames)
            if split.mode == "shots":
                num_frames = shot_frames(source.pictures().luma_NHW, num_frames)
            clip = Candidate(
                source=source,
                probe=self._probe,
                frame_rate_fps=self._rate_fps,
                speech=self._place.speech,
                first_frame=first,
                num_frames=num_frames,
                window_CT=sound.native_CT,
            )
            yield clip
            num_kept += self._verdicts[-1].kept
            step = num_frames if split.mode == "shots" else split.stride_frames(self._rate_fps)
            if sound.has_ended and step >= sound.num_frames:
                return
            source.advance(step)
            first += step

    def _verdict(self, clip: Candidate) -> Verdict:
        scores: Scores = ()
        reasons: tuple[str, ...] = (TOO_SHORT,)
        if clip.duration_s >= self._recipe.split.min_clip_s:
            scores, reasons = measure_clip(
                clip.signal,
                filters=all_filters(),
                bounds=self._recipe.bounds,
                measure_rejected=self._recipe.split.measure_rejected,
            )
        start_s = self._item.span_start_s + frames_to_s(clip.first_frame, self._rate_fps)
        return Verdict(
            source_id=self._item.source_id,
            start_s=start_s,
            end_s=start_s + clip.duration_s,
            stage="measure",
            scores=self._header_scores + scores,
            reject_reasons=reasons,
        )

    def _write(self, bundle: ShardWriter, clip: Candidate, verdict: Verdict) -> EmbedInput:
        """Encode a kept clip into the bundle; return what its embeddings will be made from."""
        settings = self._recipe.transcode
        plan = EncodePlan(
            frame_rate_fps=settings.frame_rate_fps,
            side_px=settings.side_px,
            x264_preset=settings.x264_preset,
            x264_crf=settings.x264_crf,
            keyframe_interval_frames=settings.keyframe_interval_frames,
        )
        frames_NB = clip.pictures.i420_NB
        square = plan_square(
            frames_NB,
            frame_px=(clip.pictures.height_px, clip.pictures.width_px),
            side_px=settings.side_px,
            policy=settings.crop,
            crop_black_bars=settings.crop_black_bars,
        )
        squares = (draw_squares(frames_NB[row : row + 1], square)[0] for row in range(clip.num_frames))
        seen_NB = frames_NB[middle_frames(clip.num_frames, settings.frame_rate_fps)]
        mono_S = to_int16(clip.mono(settings.sample_rate_hz))
        members = {
            "mp4": encode_mp4(squares, plan, path=self._place.work_dir / "clip.mp4"),
            "flac": encode_flac(mono_S, sample_rate_hz=settings.sample_rate_hz),
            "json": self._meta(clip, verdict, num_samples=len(mono_S)).to_json_bytes(),
        }
        bundle.write(verdict.clip_id, members)
        return EmbedInput(
            clip_id=verdict.clip_id,
            rgb_NHWC=embed_pictures(draw_squares(seen_NB, square), side_px=settings.side_px),
            mono_E=clip.mono(EMBED_RATE_HZ),
        )

    def _meta(self, clip: Candidate, verdict: Verdict, *, num_samples: int) -> StagedMeta:
        settings, origin = self._recipe.transcode, self._fetched.provenance
        return StagedMeta(
            clip_id=verdict.clip_id,
            source_id=verdict.source_id,
            recipe_id=self._recipe.recipe_id,
            url=origin.url,
            title=origin.title,
            uploader=origin.uploader,
            channel_id=origin.channel_id,
            video_id=origin.video_id,
            licence=origin.licence,
            webpage_url=origin.webpage_url,
            upload_date=origin.upload_date,
            opt_out=origin.opt_out,
            tool_versions=origin.tool_versions,
            start_s=verdict.start_s,
            end_s=verdict.end_s,
            num_frames=clip.num_frames,
            frame_rate_fps=float(settings.frame_rate_fps),
            width_px=settings.side_px,
            height_px=settings.side_px,
            num_samples=num_samples,
            sample_rate_hz=settings.sample_rate_hz,
            scores=dict(verdict.scores),
        )

    def _account_for_rest(self, read_s: float) -> None:
        """Say of what is left of the source why nothing was made of it.

        Raises:
            TooShort: nothing was made of any of it.
            MediaError: the streams do not end about where the header says.
        """
        if not self._verdicts:
            raise TooShort(
                f"a source must decode to at least one frame with its sound, got none ({self._item.url})"
            )
        _require_whole(read_s, self._probe, self._item, media_start_s=self._fetched.media_start_s)
        end_s = self._item.span_start_s + read_s
        num_kept = sum(verdict.kept for verdict in self._verdicts)
        if num_kept >= self._recipe.split.max_clips_per_source and end_s > self._verdicts[-1].end_s:
            rest = Verdict(
                source_id=self._item.source_id,
                start_s=self._verdicts[-1].end_s,
                end_s=end_s,
                stage="measure",
                scores=self._header_scores,
                reject_reasons=(MAX_CLIPS,),
            )
            self._verdicts.append(rest)


def _require_whole(decoded_s: float, probe: Probe, item: SourceItem, *, media_start_s: float) -> None:
    """Raise unless the streams end about where the header says; a header that does not say is believed.

    Far too long is as wrong as too short: a jump in the time stamps is filled with still frames and silence.
    """
    if probe.duration_s == 0:
        return
    wanted_s = min(media_start_s + probe.duration_s, item.span_end_s) - item.span_start_s
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
