"""What forgetting, checking, repairing and collecting garbage say, as lines for people and trees for programs."""

from dataclasses import asdict
from typing import Any

from pipeline.collect_garbage import GcPlan
from pipeline.forget import ForgetSummary
from pipeline.repair_dataset import RepairPlan, RepairSummary
from pipeline.verify_dataset import VerifyReport

_WHAT = {
    "bundles": "bundles that no clip is in",
    "media": "media that no source has, or that were not to be kept",
    "partial": "downloads that nobody asks for any more",
    "old_versions": "files of old versions",
    "unfinished_versions": "files of versions without a manifest",
    "shards": "shards and parts that no manifest names",
    "temporary": "files that killed runs left unfinished",
}


def forget_lines(summary: ForgetSummary, *, done: bool) -> list[str]:
    """What goes, or with `done` went."""
    verb = "forgotten" if done else "to be forgotten"
    versions = ", ".join(f"{name}@{k}" for name, k in summary.versions) or "none"
    lines = ["one that was killed has been finished first"] if done and summary.is_resumed else []
    lines += [
        f"{verb}: {summary.num_sources:,} sources, {summary.num_clips:,} clips, {summary.num_files:,} files of"
        f" media and bundles, {summary.num_samples:,} samples (dataset versions: {versions})",
        f"blocked as hashes: {summary.num_blocks:,}",
    ]
    if not summary.num_sources and not summary.num_clips:
        lines.append("the root holds nothing of it; it is blocked all the same")
    if summary.num_shared_files:
        lines.append(
            f"media files that stay, because a source that is not forgotten has the same bytes:"
            f" {summary.num_shared_files:,}"
        )
    if any(entry.kind == "clip_id" for entry in summary.entries):
        lines.append("the source of a clip is not kept or fetched again either; its other clips stay")
    return lines


def verify_lines(report: VerifyReport) -> list[str]:
    """A line for each thing that does not hold, or one that all does."""
    if report.problems:
        return [problem.text for problem in report.problems]
    return [
        f"{report.name}@{report.version} is sound: {report.num_samples:,} samples in {report.num_shards:,} shards"
        f" hold what manifest and lake say, {report.num_decoded:,} of them were decoded"
    ]


def verify_tree(report: VerifyReport) -> dict[str, Any]:
    """The report as JSON."""
    return asdict(report)


def repair_lines(plan: RepairPlan | RepairSummary, *, done: bool) -> list[str]:
    """What is, or was, made again."""
    if not plan.shards and not plan.files:
        return ["nothing is broken"]
    verb = "made again" if done else "to be made again"
    return [f"{verb}: {name}" for name in (*plan.shards, *plan.files)]


def gc_lines(plan: GcPlan, *, done: bool) -> list[str]:
    """What is, or was, removed, a line a kind."""
    if not plan.orphans:
        return ["everything is named by something"]
    verb = "removed" if done else "would be removed"
    return [
        f"{verb}: {len(orphans.keys):,} {_WHAT[orphans.kind]}, {orphans.num_bytes:,} bytes"
        for orphans in plan.orphans
    ]


def gc_tree(plan: GcPlan) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "orphans": [asdict(orphans) for orphans in plan.orphans],
        "old_versions": [list(version) for version in plan.old_versions],
    }
