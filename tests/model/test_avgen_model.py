from dataclasses import replace

import pytest
import torch
from torch import nn

from infra.errors import ConfigError
from model.avgen_model import PARTS, AVGenModel, build_on_meta, num_parameters_by_part
from model.config import AVGEN_3_8B
from tests.model.small import SMALL, audio_input, conditioning, video_input, without_conditioning


@pytest.fixture(scope="module")
def model() -> AVGenModel:
    """A model whose zero-initialised layers have been moved, so that every path shows in the output."""
    torch.manual_seed(0)
    built = AVGenModel(SMALL).eval()
    for parameter in built.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return built


def velocities(model: AVGenModel, *args: object) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    with torch.no_grad():
        out = model(*args)
    return out.video_BTCYX, out.audio_BFM


def test_forward_both_modalities_returns_input_shapes(model):
    video, audio = velocities(model, video_input(), audio_input(), conditioning())
    assert (video.shape, audio.shape) == ((2, 8, 4, 4, 4), (2, 62, 80))
    assert (video.dtype, audio.dtype) == (torch.float32, torch.float32)


def test_forward_new_model_returns_zero_velocity():
    out = AVGenModel(SMALL)(video_input(), audio_input(), conditioning())
    assert not out.video_BTCYX.any()
    assert not out.audio_BFM.any()


def test_forward_other_video_changes_audio(model):
    _, audio = velocities(model, video_input(0), audio_input(), conditioning())
    _, other = velocities(model, video_input(1), audio_input(), conditioning())
    assert (audio - other).abs().max() > 1e-3


def test_forward_other_audio_changes_video(model):
    video, _ = velocities(model, video_input(), audio_input(0), conditioning())
    other, _ = velocities(model, video_input(), audio_input(1), conditioning())
    assert (video - other).abs().max() > 1e-3


def test_backbone_other_video_changes_audio_states_through_joint_attention(model):
    from model.avgen_model import audio_stream, video_stream

    def audio_states(seed: int) -> torch.Tensor:
        streams = {
            "video": video_stream(video_input(seed), SMALL),
            "audio": audio_stream(audio_input(), SMALL),
        }
        return model.backbone(streams, conditioning())["audio"]

    with torch.no_grad():
        assert (audio_states(0) - audio_states(1)).abs().max() > 1e-3


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_forward_one_modality_leaves_the_other_out(model, modality):
    given = (video_input(), None) if modality == "video" else (None, audio_input())
    with torch.no_grad():
        out = model(*given, conditioning())
    assert (out.video_BTCYX is None) == (modality == "audio")
    assert (out.audio_BFM is None) == (modality == "video")
    assert out.alignment is None


def test_forward_one_modality_differs_from_joint(model):
    joint, _ = velocities(model, video_input(), audio_input(), conditioning())
    alone, _ = velocities(model, video_input(), None, conditioning())
    assert (joint - alone).abs().max() > 1e-3


def test_forward_no_modality_raises_config_error(model):
    with pytest.raises(ConfigError, match="needs video, audio or both"):
        model(None, None, conditioning())


def test_forward_other_audio_time_changes_both_outputs(model):
    moved = replace(audio_input(), t_B=torch.tensor([0.1, 0.1]))
    video, audio = velocities(model, video_input(), audio_input(), conditioning())
    other_video, other_audio = velocities(model, video_input(), moved, conditioning())
    assert (audio - other_audio).abs().max() > 1e-3
    assert (video - other_video).abs().max() > 1e-4


def test_forward_dropped_conditioning_ignores_embeddings(model):
    one = velocities(model, video_input(), audio_input(), without_conditioning(conditioning(0)))
    two = velocities(model, video_input(), audio_input(), without_conditioning(conditioning(1)))
    kept = velocities(model, video_input(), audio_input(), conditioning(0))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert (one[0] - kept[0]).abs().max() > 1e-4


def test_forward_samples_of_a_batch_do_not_mix(model):
    video = video_input()
    changed = video.latents_BTCYX.clone()
    changed[1] = 0
    first = velocities(model, video, audio_input(), conditioning())
    second = velocities(model, replace(video, latents_BTCYX=changed), audio_input(), conditioning())
    torch.testing.assert_close(first[0][0], second[0][0])
    torch.testing.assert_close(first[1][0], second[1][0])


def test_forward_every_parameter_gets_a_gradient(model):
    from model.alignment import contrastive_loss

    model.zero_grad()
    halves = replace(
        conditioning(), keeps_clip_B=torch.tensor([True, False]), keeps_clap_B=torch.tensor([False, True])
    )
    out = model(video_input(), audio_input(), halves)
    (
        out.video_BTCYX.square().sum() + out.audio_BFM.square().sum() + contrastive_loss(out.alignment)
    ).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_forward_checkpointed_activations_give_the_same_gradients(model):
    recomputing = AVGenModel(replace(SMALL, checkpoint_activations=True))
    recomputing.load_state_dict(model.state_dict())
    gradients = []
    for one in (model, recomputing):
        one.zero_grad()
        out = one(video_input(), audio_input(), conditioning())
        (out.video_BTCYX.sum() + out.audio_BFM.sum()).backward()
        gradients.append(one.backbone.blocks[0].context_attention.out.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_forward_bfloat16_weights_return_float32(model):
    lowered = AVGenModel(SMALL).to(torch.bfloat16)
    out = lowered(video_input(), audio_input(), conditioning())
    assert out.video_BTCYX.dtype == out.audio_BFM.dtype == torch.float32


# Budget: backbone 3.0B, audio decoder 300M, video decoder 500M, alignment 100M, each within 3.5%.
_TARGETS = {"backbone": 3.0e9, "audio_decoder": 300e6, "video_decoder": 500e6, "alignment": 100e6}


def test_num_parameters_by_part_full_size_is_within_the_budget():
    counts = num_parameters_by_part(build_on_meta(AVGEN_3_8B))
    deviations = {part: abs(counts[part] / _TARGETS[part] - 1) for part in PARTS}
    assert max(deviations.values()) <= 0.035, deviations
    assert abs(sum(counts.values()) / 3.8e9 - 1) <= 0.01


def test_num_parameters_by_part_full_size_counts_are_known():
    # Golden: torch meta device, 2026-11-23. The backbone is 24 x 117,515,008 in its blocks + 86,536,192 around.
    assert num_parameters_by_part(build_on_meta(AVGEN_3_8B)) == {
        "backbone": 24 * 117_515_008 + 86_536_192,
        "audio_decoder": 296_426_144,
        "video_decoder": 487_415_296,
        "alignment": 99_710_977,
    }


def test_num_parameters_by_part_covers_the_whole_model():
    model = build_on_meta(SMALL)
    assert sum(num_parameters_by_part(model).values()) == sum(p.numel() for p in model.parameters())
