import json

from train.metrics import METRICS_NAME, MetricsLog, StepMetrics


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=1.0321 + step,
        video_loss=1.1,
        audio_loss=0.9,
        alignment_loss=2.0,
        gradient_norm=0.5,
        learning_rate=1e-3,
        samples_per_s=4.2,
        data_wait_ratio=0.12,
        num_samples_seen=4 * step,
    )


def steps(out_dir) -> list[int]:
    return [json.loads(line)["step"] for line in (out_dir / METRICS_NAME).read_text().splitlines()]


def test_line_says_step_losses_and_rates():
    expected = "step 12/24 loss 13.0321 video 1.1000 audio 0.9000 4.2 samples/s data_wait 12%"
    assert metrics(12).line(24) == expected


def test_metrics_log_resumed_drops_later_steps_and_a_cut_line(tmp_path):
    log = MetricsLog(tmp_path, first_step=0)
    for step in (1, 2, 3):
        log.append(metrics(step))
    with (tmp_path / METRICS_NAME).open("a") as stream:
        stream.write('{"step": 4, "lo')
    resumed = MetricsLog(tmp_path, first_step=2)
    assert steps(tmp_path) == [1, 2]
    resumed.append(metrics(3))
    assert steps(tmp_path) == [1, 2, 3]
    assert (resumed.first_loss(), resumed.last_loss()) == (2.0321, 4.0321)
