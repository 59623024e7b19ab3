from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.avgen_model import AVGenModel
from shards.read_state import ReadState
from shards.reader import ShardReader
from tests.train.conftest import write_dataset
from train.config import TrainConfig
from train.data import Batch, BatchSource
from train.step import Losses, compute_losses


@pytest.fixture(scope="module")
def batch(samples, small_config, tmp_path_factory) -> Batch:
    dataset_dir = write_dataset(tmp_path_factory.mktemp("pair"), samples[5:7])
    source = BatchSource(ShardReader.opened(dataset_dir), small_config, rank=0, num_ranks=1)
    return next(source.batches(ReadState.start(seed=0)))


def new_model(config: TrainConfig) -> AVGenModel:
    torch.manual_seed(0)
    return AVGenModel(config.model)


def test_compute_losses_new_model_pays_the_energy_of_the_velocity(batch, small_config):
    # A new model predicts velocity 0, so its loss is the mean square of data - noise.
    losses = compute_losses(new_model(small_config), batch, small_config)
    expected = (batch.latents_BTCYX - batch.video_noise_BTCYX).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(losses.video_B, expected)
    expected = (batch.mel_BFM - batch.audio_noise_BFM).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(losses.audio_B, expected)


def test_compute_losses_total_is_the_weighted_sum(batch, small_config):
    weights = small_config.loss.model_copy(
        update={"video_weight": 2.0, "audio_weight": 3.0, "alignment_weight": 0.5}
    )
    config = small_config.model_copy(update={"loss": weights})
    losses = compute_losses(new_model(config), batch, config)
    expected = 2 * losses.video_B.mean() + 3 * losses.audio_B.mean() + 0.5 * losses.alignment
    torch.testing.assert_close(losses.total, expected)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_compute_losses_single_modality_leaves_the_rest_zero(batch, small_config, modality):
    config = small_config.model_copy(update={"modalities": modality})
    losses = compute_losses(new_model(config), batch, config)
    trained, left_out = (
        (losses.video_B, losses.audio_B) if modality == "video" else (losses.audio_B, losses.video_B)
    )
    assert (trained > 0).all()
    assert not left_out.any()
    assert losses.alignment == 0


def test_compute_losses_one_batch_is_overfitted(batch, small_config):
    model = new_model(small_config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(80):
        losses = compute_losses(model, batch, small_config)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append((losses.video_B.mean().item(), losses.audio_B.mean().item()))
    assert history[-1][0] < 0.5 * history[0][0]
    assert history[-1][1] < 0.5 * history[0][1]


def losses_of(total: float, video: list[float]) -> Losses:
    video_B: Tensor = torch.tensor(video)
    return Losses(
        total=torch.tensor(total),
        video_B=video_B,
        audio_B=torch.zeros_like(video_B),
        alignment=torch.tensor(0.0),
    )


def test_nonfinite_keys_names_the_samples_at_fault(batch):
    bad = losses_of(float("nan"), [float("nan"), 1.0])
    assert bad.nonfinite_keys(("a", "b")) == ["a"]
    assert losses_of(1.0, [1.0, 2.0]).nonfinite_keys(("a", "b")) == []


def test_compute_losses_nan_input_is_named(batch, small_config):
    broken = batch.latents_BTCYX.clone()
    broken[1] = float("nan")
    damaged = replace(batch, latents_BTCYX=broken)
    config = small_config.model_copy(update={"modalities": "video"})
    losses = compute_losses(new_model(config), damaged, config)
    assert losses.nonfinite_keys(damaged.keys) == [damaged.keys[1]]
