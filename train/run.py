"""Entry point of one rank: `python -m train.run`, with the arguments of `train.launch`, which starts it.

Exit status: 0 done, 1 a check failed (a loss that is not finite, a torn checkpoint, a damaged shard), 2 usage
or configuration.
"""

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from infra.config import canonical_json, config_hash
from infra.errors import AvgenError, ConfigError, IntegrityError
from infra.storage import exclusive, write_atomic
from infra.telemetry import EXIT_FAILED, EXIT_USAGE
from model.avgen_model import AVGenModel
from model.latents import CODEC_NAME
from shards.read_state import ReadState
from shards.reader import ShardReader
from train.arguments import Arguments, parse_arguments
from train.checkpoint import (
    Checkpoint,
    SavedFile,
    begin_checkpoint,
    check_resume,
    commit_checkpoint,
    load_last_checkpoint,
    remove_old_checkpoints,
    save_model,
    save_optimiser_shard,
)
from train.config import TrainConfig, check_dataset_fits, load_train_config
from train.data import Batch, BatchSource, prefetch, with_embedding_widths
from train.engine import (
    Engine,
    Ranks,
    gather_over_ranks,
    join_ranks,
    learning_rate_at,
    leave_ranks,
    sum_over_ranks,
    wait_for_ranks,
)
from train.metrics import MetricsLog, StepMetrics
from train.step import Losses, batch_to, compute_losses

# Source: linux/prctl.h.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What identifies a run, stored beside its outputs and in every checkpoint."""

    config_hash: str
    model_hash: str
    dataset_manifest_sha256: str
    num_ranks: int
    codec: str
    embeddings: dict[str, str]


class Trainer:
    """One rank of a run, from its recipe to its last checkpoint."""

    def __init__(self, out_dir: Path, reader: ShardReader, config: TrainConfig, ranks: Ranks) -> None:
        self._out_dir = out_dir
        self._config = config
        self._ranks = ranks
        self._reader = reader
        self.facts = run_facts(reader, config, num_ranks=ranks.num_ranks)
        self._source = BatchSource(reader, config, rank=ranks.rank, num_ranks=ranks.num_ranks)
        torch.manual_seed(config.seed)
        model = AVGenModel(config.model)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._engine = Engine(model, config.optimiser, rank_batch_samples=config.rank_batch_samples)
        self._step = 0
        self._num_samples_seen = 0
        self._state = ReadState.start(seed=config.seed)
        self._num_skipped_in_epoch = 0
        self._num_left_out = [0, 0, 0]
        self._num_left_over = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks for all."""
        return self._ranks.rank == 0

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint ends.

        Raises:
            ConfigError: it is of another model or dataset.
        """
        for name in ("model_hash", "dataset_manifest_sha256"):
            if checkpoint.facts[name] != getattr(self.facts, name):
                raise ConfigError(
                    f"--resume needs the same model and dataset, {name} is {getattr(self.facts, name)} and "
                    f"the checkpoint's is {checkpoint.facts[name]}; use another --out"
                )
        self._engine.restore(checkpoint.model_state, checkpoint.optimiser_shards)
        self._step = checkpoint.step
        self._num_samples_seen = checkpoint.facts["num_samples_seen"]
        self._state = ReadState(**checkpoint.facts["read_state"])

    def train(self) -> dict[str, object]:
        """Train to the recipe's last step; returns the summary that rank 0 prints."""
        log = MetricsLog(self._out_dir, first_step=self._step) if self.is_first else None
        batches = prefetch(self._source.batches(self._state), num_ahead=self._config.data.num_batches_ahead)
        checkpoint_dir = self._out_dir / "checkpoints" / f"step-{self._step:06d}"
        with contextlib.closing(batches):
            while self._step < self._config.num_steps:
                metrics = self._train_step(batches)
                if log is not None:
                    log.append(metrics)
                    say(metrics.line(self._config.num_steps))
                if self._is_checkpoint_due():
                    checkpoint_dir = self._save()
        if log is None:
            return {}
        if any(self._num_left_out) or self._num_left_over:
            unreadable, too_short, undecodable = self._num_left_out
            say(
                f"samples left out: {unreadable} in damaged shards, {too_short} shorter than the window, "
                f"{undecodable} undecodable, {self._num_left_over} at the ends of epochs"
            )
        return {
            "steps": self._step,
            "first_loss": log.first_loss(),
            "last_loss": log.last_loss(),
            "checkpoint": str(checkpoint_dir),
            "num_parameters": self.num_parameters,
            "codec": self.facts.codec,
            "embeddings": self.facts.embeddings,
        }

    def _is_checkpoint_due(self) -> bool:
        is_last = self._step == self._config.num_steps
        return is_last or self._step % self._config.checkpoint.every_steps == 0

    def _train_step(self, batches: Iterator[Batch]) -> StepMetrics:
        begin_s = time.perf_counter()
        batch = next(batches)
        wait_s = time.perf_counter() - begin_s
        while (num_samples := self._num_samples_of_step(batch)) == 0:
            batch = next(batches)
        losses = compute_losses(self._engine, batch_to(batch, self._ranks.device), self._config)
        means = self._checked_means(losses, batch, num_samples=num_samples)
        # The engine averages over ranks; this makes it the average over samples. It is 1 when no rank lacks any.
        weight = len(batch.keys) * self._ranks.num_ranks / num_samples
        gradient_norm = self._engine.update(losses.total * weight, step=self._step)
        learning_rate = learning_rate_at(self._step, self._config.optimiser)
        self._step += 1
        step_s = time.perf_counter() - begin_s
        self._num_samples_seen += num_samples
        return StepMetrics(
            step=self._step,
            loss=means[0],
            video_loss=means[1],
            audio_loss=means[2],
            alignment_loss=means[3],
            gradient_norm=gradient_norm,
            learning_rate=learning_rate,
            samples_per_s=num_samples / step_s,
            data_wait_ratio=wait_s / step_s,
            num_samples_seen=self._num_samples_seen,
        )

    def _num_samples_of_step(self, batch: Batch) -> int:
        """Samples that all ranks have to train on in this step, which the reading has now passed.

        Raises:
            IntegrityError: the ranks have skipped more of this epoch than the recipe allows.
        """
        counts = torch.tensor([len(batch.keys), *batch.num_left_out], device=self._ranks.device)
        num_samples, *num_left_out = sum_over_ranks(counts).tolist()
        if batch.state.epoch != self._state.epoch:
            self._num_left_over += self._reader.num_samples - self._state.position
            self._num_skipped_in_epoch = 0
        self._state = batch.state
        self._num_left_out = [sum(pair) for pair in zip(self._num_left_out, num_left_out, strict=True)]
        self._num_skipped_in_epoch += num_left_out[0]
        self._reader.check_skipped(self._num_skipped_in_epoch)
        return num_samples

    def _checked_means(self, losses: Losses, batch: Batch, *, num_samples: int) -> list[float]:
        """Total, video, audio and alignment loss over the `num_samples` of all ranks.

        Raises:
            IntegrityError: a loss of any rank is not finite; on all ranks, before the optimiser moves.
        """
        terms = (losses.total, losses.video_B.mean(), losses.audio_B.mean(), losses.alignment)
        sums = sum_over_ranks(torch.stack([term.detach().float() for term in terms]) * len(batch.keys))
        if not bool(sums.isfinite().all()):
            own = losses.nonfinite_keys(batch.keys) if batch.keys else []
            keys = sorted(key for rank_keys in gather_over_ranks(own) for key in rank_keys)
            raise IntegrityError(
                f"the loss must be finite, got {sums.tolist()} (total, video, audio, alignment) at step "
                f"{self._step + 1} for samples {', '.join(keys)}; the last checkpoint is untouched"
            )
        return (sums / num_samples).tolist()

    def _save(self) -> Path:
        """Write a checkpoint with all ranks; returns its folder."""
        if self.is_first:
            begin_checkpoint(self._out_dir)
        wait_for_ranks()
        files = [save_optimiser_shard(self._out_dir, self._engine.optimiser_shard(), rank=self._ranks.rank)]
        if self.is_first:
            files.append(save_model(self._out_dir, self._engine.model_state()))
        all_files: list[list[SavedFile]] = gather_over_ranks(files)
        folder = self._out_dir / "checkpoints" / f"step-{self._step:06d}"
        if self.is_first:
            seen = {"num_samples_seen": self._num_samples_seen, "read_state": asdict(self._state)}
            facts = {**asdict(self.facts), **seen}
            flat = [file for rank_files in all_files for file in rank_files]
            folder = commit_checkpoint(self._out_dir, step=self._step, facts=facts, files=flat)
            remove_old_checkpoints(self._out_dir, num_kept=self._config.checkpoint.num_kept)
        wait_for_ranks()
        return folder


def run_facts(reader: ShardReader, config: TrainConfig, *, num_ranks: int) -> RunFacts:
    """What identifies a run of a recipe on a dataset."""
    models = asdict(reader.manifest.models)
    return RunFacts(
        config_hash=config_hash(config),
        model_hash=hashlib.sha256(canonical_json(asdict(config.model))).hexdigest()[:12],
        dataset_manifest_sha256=hashlib.sha256(reader.manifest.to_bytes()).hexdigest(),
        num_ranks=num_ranks,
        codec=CODEC_NAME,
        embeddings=models,
    )


def say(line: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def write_run_files(out_dir: Path, config: TrainConfig, facts: RunFacts) -> None:
    """The resolved recipe and what identifies the run, beside its outputs."""
    write_atomic(out_dir / "config.json", json.dumps(config.model_dump(mode="json"), indent=2).encode())
    write_atomic(out_dir / "run.json", json.dumps(asdict(facts), indent=2).encode())


def train_rank(arguments: Arguments, ranks: Ranks) -> dict[str, object]:
    """Run one rank to the end; returns the summary on rank 0, nothing elsewhere."""
    recipe = load_train_config(arguments.recipe, overrides=arguments.overrides)
    reader = ShardReader.opened(arguments.dataset_dir, max_skipped_ratio=recipe.data.max_skipped_ratio)
    check_dataset_fits(
        recipe, dataset_dir=arguments.dataset_dir, num_samples=reader.num_samples, num_ranks=ranks.num_ranks
    )
    config = with_embedding_widths(recipe, reader)
    check_resume(arguments.out_dir, resume=arguments.resume)
    # Before rank 0 writes its first checkpoint, every rank has seen what was there at the start.
    wait_for_ranks()
    trainer = Trainer(arguments.out_dir, reader, config, ranks)
    if trainer.is_first:
        write_run_files(arguments.out_dir, config, trainer.facts)
        untrained = [name for name, weights in trainer.facts.embeddings.items() if weights == "untrained"]
        if untrained:
            say(f"warning: {' and '.join(untrained)} of this dataset are untrained; the run records it")
        say(f"{trainer.num_parameters} parameters, {ranks.num_ranks} {ranks.device.type} ranks, {CODEC_NAME}")
    if arguments.resume:
        trainer.restore(load_last_checkpoint(arguments.out_dir))
    return trainer.train()


def end_with_parent() -> None:
    """Ask the kernel to end this rank when its launcher ends, however that ends: nobody else would."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def main() -> int:
    """Exit status of one rank."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: a checkpoint is what goes on, not a traceback.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    rank = int(os.environ.get("RANK", "0"))
    try:
        arguments = parse_arguments(sys.argv[1:])
        arguments.out_dir.mkdir(parents=True, exist_ok=True)
        with exclusive(arguments.out_dir) if rank == 0 else contextlib.nullcontext():
            summary = train_rank(arguments, join_ranks())
            leave_ranks()
    except AvgenError as err:
        say(f"error: {err}" if rank == 0 else f"error on rank {rank}: {err}")
        return EXIT_USAGE if isinstance(err, ConfigError) else EXIT_FAILED
    if summary:
        sys.stdout.write(json.dumps(summary) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
