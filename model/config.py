"""The sizes of one audio-video generator; the tiny recipe and the 3.8B model differ in these numbers only."""

from dataclasses import dataclass, fields

from infra.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AVGenConfig:
    """Every size that shapes a parameter or a token grid of `AVGenModel`."""

    width: int
    """Channels of a backbone token."""
    depth: int
    """Number of joint transformer blocks."""
    num_heads: int
    """Attention heads of the backbone; `width / num_heads` must be even, for the rotary pairs."""
    ffn_width: int
    """Hidden channels of each modality's feed-forward layer in the backbone."""
    num_latent_channels: int = 4
    """Channels of a video latent; 4 is the shape of an SD-VAE latent."""
    tubelet_frames: int = 4
    """Latent frames that one video token spans."""
    tubelet_height: int = 2
    """Latent rows that one video token spans."""
    tubelet_width: int = 2
    """Latent columns that one video token spans."""
    num_mel_bins: int = 80
    """Bins of a mel frame."""
    mel_patch_frames: int = 2
    """Mel frames that one audio token spans."""
    clip_channels: int = 768
    """Channels of one cached CLIP embedding."""
    clap_channels: int = 512
    """Channels of the cached CLAP embedding."""
    num_registers: int = 16
    """Learned conditioning tokens that are always there, so that cross-attention has somewhere to look."""
    audio_decoder_width: int
    """Channels inside the audio decoder."""
    audio_decoder_depth: int
    """Transformer layers of the audio decoder."""
    audio_decoder_num_heads: int
    """Attention heads of the audio decoder."""
    audio_decoder_ffn_width: int
    """Hidden channels of the audio decoder's feed-forward layers."""
    video_decoder_width: int
    """Channels of the video decoder's 3D convolutions; a multiple of `num_norm_groups`."""
    video_decoder_depth: int
    """Residual blocks of the video decoder, two 3x3x3 convolutions each."""
    num_norm_groups: int = 32
    """Groups of the video decoder's group normalisation."""
    alignment_depth: int
    """Layers of the temporal alignment module."""
    alignment_width: int
    """Channels of the alignment module's temporal convolutions."""
    alignment_embedding_channels: int
    """Channels of the embeddings that the contrastive loss compares."""
    checkpoint_activations: bool = False
    """Recompute each backbone block in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "checkpoint_activations" and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"model.{field.name} must be a whole number >= 1, got {value!r}")
        _check_divides("width", self.width, "num_heads", self.num_heads)
        _check_divides("width", self.width, "tubelet_frames", self.tubelet_frames)
        _check_divides(
            "audio_decoder_width",
            self.audio_decoder_width,
            "audio_decoder_num_heads",
            self.audio_decoder_num_heads,
        )
        _check_divides(
            "video_decoder_width", self.video_decoder_width, "num_norm_groups", self.num_norm_groups
        )
        head_channels = (
            self.width // self.num_heads,
            self.audio_decoder_width // self.audio_decoder_num_heads,
        )
        for channels in head_channels:
            if channels % 8:
                raise ConfigError(f"channels of an attention head must be a multiple of 8, got {channels}")

    @property
    def video_patch_channels(self) -> int:
        """Numbers in one tubelet of latents."""
        return self.tubelet_frames * self.tubelet_height * self.tubelet_width * self.num_latent_channels

    @property
    def audio_patch_channels(self) -> int:
        """Numbers in one patch of mel frames."""
        return self.mel_patch_frames * self.num_mel_bins


def _check_divides(whole_name: str, whole: int, part_name: str, part: int) -> None:
    if whole % part:
        raise ConfigError(
            f"model.{whole_name} must be a multiple of model.{part_name}, got {whole} and {part}"
        )


# Source: the parameter budget of the project: backbone 3.0B, audio decoder 300M, video decoder 500M and
# alignment 100M, each within 3.5%, and 3.8B in all within 1%; counted in tests/model/test_avgen_model.py.
AVGEN_3_8B = AVGenConfig(
    width=2048,
    depth=24,
    num_heads=16,
    ffn_width=8192,
    audio_decoder_width=1536,
    audio_decoder_depth=8,
    audio_decoder_num_heads=12,
    audio_decoder_ffn_width=5376,
    video_decoder_width=1728,
    video_decoder_depth=3,
    alignment_depth=2,
    alignment_width=1024,
    alignment_embedding_channels=256,
    checkpoint_activations=True,
)
