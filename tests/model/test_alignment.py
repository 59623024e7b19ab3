import math

import pytest
import torch

from model.alignment import contrastive_loss, fold_slots, unfold_slots
from model.avgen_model import AVGenModel
from model.records import AlignmentEmbeddings
from tests.model.small import SMALL, audio_input, conditioning, video_input


def embeddings(video: torch.Tensor, audio: torch.Tensor, scale: float) -> AlignmentEmbeddings:
    return AlignmentEmbeddings(video_BSE=video, audio_BSE=audio, logit_scale=torch.tensor([scale]))


def test_contrastive_loss_equal_embeddings_is_the_log_of_the_slots():
    same = torch.ones(2, 3, 4) / 2
    assert contrastive_loss(embeddings(same, same, 5.0)).item() == pytest.approx(math.log(6))


def test_contrastive_loss_own_partner_found_is_near_zero():
    distinct = torch.eye(6).reshape(2, 3, 6)
    assert contrastive_loss(embeddings(distinct, distinct, 50.0)).item() < 1e-6


def test_contrastive_loss_shifted_partner_is_large():
    distinct = torch.eye(6).reshape(2, 3, 6)
    assert contrastive_loss(embeddings(distinct, distinct.roll(1, dims=1), 50.0)).item() == pytest.approx(
        50.0
    )


def test_unfold_slots_a_token_becomes_its_instants():
    # Two tokens in time of one place each, four channels, two instants a token.
    tokens = torch.arange(8.0).reshape(1, 2, 4)
    assert unfold_slots(tokens, (2, 1, 1), 2).tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]]]


def test_fold_slots_inverts_unfold_on_uniform_frames():
    tokens = torch.arange(8.0).reshape(1, 2, 4).repeat_interleave(6, dim=1)
    assert torch.equal(fold_slots(unfold_slots(tokens, (2, 2, 3), 2), (2, 2, 3)), tokens)


def test_forward_alignment_has_one_unit_embedding_a_frame():
    with torch.no_grad():
        out = AVGenModel(SMALL)(video_input(num_frames=8), audio_input(), conditioning()).alignment
    assert out.video_BSE.shape == out.audio_BSE.shape == (2, 8, 8)
    torch.testing.assert_close(out.video_BSE.norm(dim=-1), torch.ones(2, 8))
    assert out.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-3)
