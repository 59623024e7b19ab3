"""The generator: backbone, temporal alignment, audio decoder and video decoder, as one velocity field.

Shapes: B batch, T latent frames, C latent channels, Y rows, X columns, F mel frames, M mel bins, L tokens,
D width.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn

from infra.errors import ConfigError
from model.alignment import TemporalAlignment
from model.audio_decoder import AudioDecoder
from model.config import AVGenConfig
from model.dit import Modality, TokenStream, UnifiedDiT
from model.patchify import (
    patchify_audio,
    patchify_video,
    token_grid_TYX,
    unpatchify_audio,
    unpatchify_video,
)
from model.records import AlignmentEmbeddings, AudioInput, Conditioning, Velocities, VideoInput
from model.rope import audio_positions_L3, video_positions_L3
from model.video_decoder import VideoDecoder

PARTS = ("backbone", "audio_decoder", "video_decoder", "alignment")
"""Names of the four parts, as attributes of the model and as rows of the parameter budget."""


class AVGenModel(nn.Module):
    """Velocities of video latents and mel frames; either modality may be left out."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = UnifiedDiT(config)
        self.audio_decoder = AudioDecoder(config)
        self.video_decoder = VideoDecoder(config)
        self.alignment = TemporalAlignment(config)

    def forward(
        self, video: VideoInput | None, audio: AudioInput | None, conditioning: Conditioning
    ) -> Velocities:
        """Velocities of the modalities given; alignment takes part when both are.

        Raises:
            ConfigError: neither modality is given, or one does not divide into tokens.
        """
        streams: dict[Modality, TokenStream] = {}
        if video is not None:
            streams["video"] = video_stream(video, self.config)
        if audio is not None:
            streams["audio"] = audio_stream(audio, self.config)
        if not streams:
            raise ConfigError("the model needs video, audio or both, got neither")
        hidden = self.backbone(streams, conditioning)
        embeddings = None
        if video is not None and audio is not None:
            embeddings = self._align(hidden, streams, video)
        return Velocities(
            video_BTCYX=None if video is None else self._decode_video(hidden["video"], video),
            audio_BFM=None if audio is None else self._decode_audio(hidden["audio"], streams["audio"]),
            alignment=embeddings,
        )

    def _align(
        self, hidden: dict[Modality, Tensor], streams: dict[Modality, TokenStream], video: VideoInput
    ) -> AlignmentEmbeddings:
        """Update both hidden states in the mapping; return the embeddings for the contrastive loss."""
        num_frames = video.latents_BTCYX.shape[1]
        slot_positions_S3 = video_positions_L3(
            (num_frames, 1, 1), tubelet_s=1 / video.frame_rate_fps, device=video.t_B.device
        )
        hidden["video"], hidden["audio"], embeddings = self.alignment(
            hidden["video"],
            hidden["audio"],
            grid_TYX=token_grid_TYX(tuple(video.latents_BTCYX.shape), self.config),
            slot_positions_S3=slot_positions_S3,
            audio_positions_A3=streams["audio"].positions_L3,
        )
        return embeddings

    def _decode_video(self, hidden_BLD: Tensor, video: VideoInput) -> Tensor:
        grid_TYX = token_grid_TYX(tuple(video.latents_BTCYX.shape), self.config)
        return unpatchify_video(
            self.video_decoder(hidden_BLD, grid_TYX=grid_TYX), grid_TYX, self.config
        ).float()

    def _decode_audio(self, hidden_BLD: Tensor, stream: TokenStream) -> Tensor:
        velocity_BLP = self.audio_decoder(
            stream.patches_BLP, hidden_BLE=hidden_BLD, positions_L3=stream.positions_L3
        )
        return unpatchify_audio(velocity_BLP, self.config).float()


def video_stream(video: VideoInput, config: AVGenConfig) -> TokenStream:
    """Tokens of noised video, each at the middle of its tubelet."""
    positions_L3 = video_positions_L3(
        token_grid_TYX(tuple(video.latents_BTCYX.shape), config),
        tubelet_s=Fraction(config.tubelet_frames) / video.frame_rate_fps,
        device=video.t_B.device,
    )
    return TokenStream(
        patches_BLP=patchify_video(video.latents_BTCYX, config), positions_L3=positions_L3, t_B=video.t_B
    )


def audio_stream(audio: AudioInput, config: AVGenConfig) -> TokenStream:
    """Tokens of noised mel frames, each at the middle of its patch."""
    patches_BLP = patchify_audio(audio.mel_BFM, config)
    positions_L3 = audio_positions_L3(
        patches_BLP.shape[1],
        hop_s=audio.hop_s,
        patch_frames=config.mel_patch_frames,
        device=audio.t_B.device,
    )
    return TokenStream(patches_BLP=patches_BLP, positions_L3=positions_L3, t_B=audio.t_B)


def num_parameters_by_part(model: AVGenModel) -> dict[str, int]:
    """Parameters of each of the four parts, in the order of `PARTS`."""
    return {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS}


def build_on_meta(config: AVGenConfig) -> AVGenModel:
    """The model without storage: every shape is real, no byte is held."""
    with torch.device("meta"):
        return AVGenModel(config)
