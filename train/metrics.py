"""What a run did, one JSON line a step, in `<out>/metrics.jsonl`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.storage import write_atomic

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One optimiser step, over all ranks."""

    step: int
    """Steps done, this one included."""
    loss: float
    video_loss: float
    audio_loss: float
    alignment_loss: float
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    samples_per_s: float
    data_wait_ratio: float
    """Share of the step that rank 0 waited for its batch."""
    num_samples_seen: int
    """Samples trained on since the run began, resumes included."""

    def line(self, num_steps: int) -> str:
        """The step for a person."""
        return (
            f"step {self.step}/{num_steps} loss {self.loss:.4f} video {self.video_loss:.4f} "
            f"audio {self.audio_loss:.4f} {self.samples_per_s:.1f} samples/s "
            f"data_wait {100 * self.data_wait_ratio:.0f}%"
        )


class MetricsLog:
    """Appends steps; steps beyond the one that a run resumes from are dropped first."""

    def __init__(self, out_dir: Path, *, first_step: int) -> None:
        self._path = out_dir / METRICS_NAME
        kept = [line for line in self._lines() if json.loads(line)["step"] <= first_step]
        write_atomic(self._path, "".join(kept).encode())

    def append(self, metrics: StepMetrics) -> None:
        """Write one step; it is on disk when this returns, short of a power cut."""
        with self._path.open("a") as stream:
            stream.write(json.dumps(asdict(metrics)) + "\n")

    def first_loss(self) -> float:
        """Loss of the run's first step."""
        return json.loads(self._lines()[0])["loss"]

    def last_loss(self) -> float:
        """Loss of the run's newest step."""
        return json.loads(self._lines()[-1])["loss"]

    def _lines(self) -> list[str]:
        """Whole lines; a line without its end was cut by a kill."""
        if not self._path.is_file():
            return []
        return [line for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]
