"""The audio decoder: a transformer from noised mel patches and backbone states to mel velocity.

Shapes: B batch, L audio tokens, P numbers of a mel patch, D decoder width, E backbone width.
"""

from torch import Tensor, nn

from model.config import AVGenConfig
from model.layers import Attention, FeedForward, zero_init
from model.rope import rotary_angles_LP


class AudioDecoderLayer(nn.Module):
    """Self-attention over audio tokens, cross-attention to the backbone's audio states, feed-forward."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        width, num_heads = config.audio_decoder_width, config.audio_decoder_num_heads
        self.self_norm = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = Attention(width, num_heads, context_width=width)
        self.hidden_norm = nn.LayerNorm(width, eps=1e-6)
        self.hidden_attention = Attention(width, num_heads, context_width=config.width)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-6)
        self.ffn = FeedForward(width, config.audio_decoder_ffn_width)

    def forward(self, x_BLD: Tensor, *, hidden_BLE: Tensor, angles_LP: Tensor) -> Tensor:
        """The tokens, one layer further."""
        normed_BLD = self.self_norm(x_BLD)
        x_BLD = x_BLD + self.self_attention(
            normed_BLD, normed_BLD, angles_LP=angles_LP, context_angles_SP=angles_LP
        )
        x_BLD = x_BLD + self.hidden_attention(
            self.hidden_norm(x_BLD), hidden_BLE, angles_LP=angles_LP, context_angles_SP=angles_LP
        )
        return x_BLD + self.ffn(self.ffn_norm(x_BLD))


class AudioDecoder(nn.Module):
    """Mel velocity patches from noised mel patches and the backbone's audio states."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        width = config.audio_decoder_width
        self.head_channels = width // config.audio_decoder_num_heads
        self.patch = nn.Linear(config.audio_patch_channels, width)
        self.layers = nn.ModuleList(AudioDecoderLayer(config) for _ in range(config.audio_decoder_depth))
        self.out_norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, config.audio_patch_channels)
        zero_init(self.out)

    def forward(self, patches_BLP: Tensor, *, hidden_BLE: Tensor, positions_L3: Tensor) -> Tensor:
        """Velocity of every mel patch, (B, L, P)."""
        angles_LP = rotary_angles_LP(positions_L3, self.head_channels)
        x_BLD = self.patch(patches_BLP.to(self.patch.weight.dtype))
        for layer in self.layers:
            x_BLD = layer(x_BLD, hidden_BLE=hidden_BLE, angles_LP=angles_LP)
        return self.out(self.out_norm(x_BLD))
