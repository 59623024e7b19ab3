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
from dedup.sound import SOUND_RATE_HZ
from filters.registry import all_filters
from infra.errors import TooShort, Truncated, Undecodable
from infra.media import Probe
from infra.media.encode import EncodePlan, encode_flac, encode_mp4
from infra.media.reader import MediaReader, MediaSource, ReadPlan
from infra.media.resample import EMBED_RATE_HZ, to_int16
from infra.root import Root
from infra.units import frames_to_s, s_to_frames_floor
from pipeline.candidate import Candidate, SpeechDetector
from pipeline.earlier_passes import EarlierClip, EarlierPass
from pipeline.embed_pictures import embed_pictures, middle_frames
from pipeline.fingerprint_clip import Fingerprint, fingerprint_clip
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
    clip_id_of,
)
from pipeline.screen_source import Scores, screen_source
from pipeline.split_source import MARGIN_FRAMES, shot_frames
from shards.manifest import ShardRecord
from shards.schema import StagedMeta
from shards.writer import ShardWriter

_SHORTEST_SPAN_S = 0.001
"""A span is never empty, also where the header does not state a duration."""
_NO_PASS = EarlierPass()
_MISSING_S = 1.0
_MISSING_RATIO = 0.02
"""A source may end this much before its header says: containers round, and streams end unevenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where and with what a source is curated."""

    root: Root
    work_dir: Path
    """Scratch of this worker alone."""
    reader: MediaReader
    speech: SpeechDetector


def bundle_stem(source_id: str, recipe_id: str, pass_index: int) -> str:
    """Path below the root, without its suffix, of what a pass over a source stages; no pass replaces another's."""
    again = f"-{pass_index}" if pass_index else ""
    return f"staged/{source_id[:2]}/{source_id}-{recipe_id}{again}"


def curate_source(
    item: SourceItem,
    fetched: FetchedMedia,
    *,
    recipe: Recipe,
    workplace: Workplace,
    earlier: EarlierPass = _NO_PASS,
) -> Iterator[CuratePart]:
    """What the encoders need, part by part, and in the last part what became of the source.

    The bundle is in place when the last part appears. Until then there is none.

    Args:
        earlier: spans that are judged by the scores they have, unless they are what is missing.

    Raises:
        MediaError: the source cannot be decoded whole.
    """
    with workplace.root.local_copy(fetched.media_key) as path:
        probe = workplace.reader.probe(path)
        scores, reasons = screen_source(
            probe, filters=all_filters(), bounds=recipe.bounds, min_duration_s=recipe.split.min_clip_s
        )
        if not reasons:
            facts = _Facts(
                item=item, fetched=fetched, path=path, probe=probe, header_scores=scores, earlier=earlier
            )
            yield from _Curating(facts, recipe=recipe, place=workplace).parts()
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
    curated = Curated(probe=probe, verdicts=(verdict,), staged=(), pass_index=earlier.pass_index)
    outcome = SourceOutcome(item=item, fetched=fetched, curated=curated)
    yield CuratePart(source_id=item.source_id, part_index=0, outcome=outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is known of a source before it is decoded."""

    item: SourceItem
    fetched: FetchedMedia
    path: Path
    """Of its media file."""
    probe: Probe
    header_scores: Scores
    earlier: EarlierPass


class _Curating:
    """A source that passed the header screen on its way through the other steps."""

    def __init__(self, facts: _Facts, *, recipe: Recipe, place: Workplace) -> None:
        self._item, self._fetched, self._path, self._probe = (
            facts.item,
            facts.fetched,
            facts.path,
            facts.probe,
        )
        self._header_scores, self._earlier = facts.header_scores, facts.earlier
        self._recipe, self._place = recipe, place
        self._rate_fps = recipe.transcode.frame_rate_fps
        self._verdicts: list[Verdict] = []
        self._fingerprints: dict[str, tuple[Fingerprint, ...]] = {}

    def parts(self) -> Iterator[CuratePart]:
        """Decode, measure and encode; the last part holds the outcome."""
        source_id, recipe = self._item.source_id, self._recipe
        key = f"{bundle_stem(source_id, recipe.recipe_id, self._earlier.pass_index)}.tar"
        pending: list[EmbedInput] = []
        num_parts = 0
        with ExitStack() as stack:
            source = stack.enter_context(self._place.reader.open(self._path, self._probe, self._plan()))
            bundle: ShardWriter | None = None
            for clip in self._clips(source):
                verdict = self._verdict(clip)
                self._verdicts.append(verdict)
                if not verdict.kept or self._earlier.is_staged(verdict.clip_id):
                    continue
                bundle = bundle or stack.enter_context(ShardWriter(self._place.root.store, key))
                pending.append(self._write(bundle, clip, verdict))
                if len(pending) == recipe.embed.clips_per_batch:
                    yield CuratePart(source_id=source_id, part_index=num_parts, inputs=tuple(pending))
                    num_parts, pending = num_parts + 1, []
            self._account_for_rest(source.finish())
        # The bundle is in its place once the block has ended.
        curated = Curated(
            probe=self._probe,
            verdicts=tuple(self._verdicts),
            staged=self._earlier_staged() + (self._staged(bundle.record, key) if bundle else ()),
            pass_index=self._earlier.pass_index,
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

    def _earlier_staged(self) -> tuple[StagedClip, ...]:
        """What earlier passes have staged of the spans that there still are, kept today or not."""
        known = (self._earlier.clips.get(verdict.clip_id) for verdict in self._verdicts)
        return tuple(clip.staged for clip in known if clip and clip.staged)

    def _staged(self, record: ShardRecord, key: str) -> tuple[StagedClip, ...]:
        return tuple(
            StagedClip(
                clip_id=clip_id, bundle_key=key, members=members, fingerprints=self._fingerprints[clip_id]
            )
            for clip_id, members in record.by_key().items()
        )

    def _verdict(self, clip: Candidate) -> Verdict:
        start_s = self._item.span_start_s + frames_to_s(clip.first_frame, self._rate_fps)
        end_s = start_s + clip.duration_s
        known = self._earlier.clips.get(clip_id_of(self._item.source_id, start_s, end_s))
        # What was measured to its end is not decoded again.
        scores, reasons = self._measured(clip) if known is None or known.missing else self._judged(known)
        return Verdict(
            source_id=self._item.source_id,
            start_s=start_s,
            end_s=end_s,
            stage="measure",
            scores=scores,
            reject_reasons=reasons,
        )

    def _measured(self, clip: Candidate) -> tuple[Scores, tuple[str, ...]]:
        if clip.duration_s < self._recipe.split.min_clip_s:
            return self._header_scores, (TOO_SHORT,)
        scores, reasons = measure_clip(
            clip.signal,
            filters=all_filters(),
            bounds=self._recipe.bounds,
            measure_rejected=self._recipe.split.measure_rejected,
        )
        return self._header_scores + scores, reasons

    def _judged(self, known: EarlierClip) -> tuple[Scores, tuple[str, ...]]:
        bounds = self._recipe.bounds
        broken = tuple(name for name, score in known.scores if not bounds[name].admits(score))
        return known.scores, known.faults + broken

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
        self._fingerprints[verdict.clip_id] = fingerprint_clip(
            clip.pictures.luma_NHW, clip.mono(SOUND_RATE_HZ), rate_fps=float(self._rate_fps)
        )
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
