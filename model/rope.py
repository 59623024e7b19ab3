"""Rotary position embedding whose time axis is in seconds, for video and audio alike.

Shapes: B batch, L tokens, H heads, K channels of a head, P rotary pairs (K / 2), 3 = (time_s, y, x).
A token at second s gets the same temporal phase whatever its modality, frame rate or hop, which is what
lets one softmax compare the two clocks.

Source: Su et al. 2021, arXiv 2104.09864, eq. 34; time in real units as LTX-2's `rope.py` has it
(Lightricks/LTX-2 at 400fd31).
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

# Assumption, not measured: from two 32 ms audio tokens to six times a ten-second clip.
SHORTEST_TIME_PERIOD_S = 0.064
LONGEST_TIME_PERIOD_S = 60.0
# Assumption, not measured: in frame heights, from two tokens of a 32x32 grid to four frames.
SHORTEST_SPACE_PERIOD = 1 / 16
LONGEST_SPACE_PERIOD = 4.0


def angular_frequencies_P(num_pairs: int, *, shortest_period: float, longest_period: float) -> Tensor:
    """`num_pairs` angular frequencies (radians a unit) whose periods form a geometric series."""
    log_period_P = torch.linspace(math.log(shortest_period), math.log(longest_period), num_pairs)
    return 2 * math.pi / log_period_P.exp()


def rotary_angles_LP(positions_L3: Tensor, head_channels: int) -> Tensor:
    """Phases of tokens at (time_s, y, x), float32: half of the pairs for time, a quarter each for y and x."""
    num_pairs = head_channels // 2
    num_space_pairs = num_pairs // 4
    time_P = angular_frequencies_P(
        num_pairs - 2 * num_space_pairs,
        shortest_period=SHORTEST_TIME_PERIOD_S,
        longest_period=LONGEST_TIME_PERIOD_S,
    )
    space_P = angular_frequencies_P(
        num_space_pairs, shortest_period=SHORTEST_SPACE_PERIOD, longest_period=LONGEST_SPACE_PERIOD
    )
    frequencies = [frequency_P.to(positions_L3.device) for frequency_P in (time_P, space_P, space_P)]
    return torch.cat([positions_L3[:, axis, None].float() * frequencies[axis] for axis in range(3)], dim=-1)


def apply_rotary(x_BHLK: Tensor, angles_LP: Tensor) -> Tensor:
    """Each pair of channels (k, k + K/2) turned by its token's phase; length and dtype are kept."""
    cos_LP, sin_LP = angles_LP.cos(), angles_LP.sin()
    first_BHLP, second_BHLP = x_BHLK.float().chunk(2, dim=-1)
    turned = (first_BHLP * cos_LP - second_BHLP * sin_LP, first_BHLP * sin_LP + second_BHLP * cos_LP)
    return torch.cat(turned, dim=-1).to(x_BHLK.dtype)


def video_positions_L3(
    grid_TYX: tuple[int, int, int], *, tubelet_s: Fraction, device: torch.device
) -> Tensor:
    """Mid-points of the tubelets of a token grid, time outermost.

    Time starts at 0 s; y and x are in frame heights and widths from the centre, so a grid of another
    resolution covers the same range and a token without a place in the frame can sit at 0.
    """
    num_t, num_y, num_x = grid_TYX
    time_T = (torch.arange(num_t, device=device) + 0.5) * float(tubelet_s)
    y_Y = (torch.arange(num_y, device=device) + 0.5) / num_y - 0.5
    x_X = (torch.arange(num_x, device=device) + 0.5) / num_x - 0.5
    axes = torch.meshgrid(time_T, y_Y, x_X, indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, 3)


def audio_positions_L3(
    num_tokens: int, *, hop_s: Fraction, patch_frames: int, device: torch.device
) -> Tensor:
    """Mid-points of patches of mel frames; frame j is centred at `j * hop_s`, as a centred STFT has it."""
    frame_L = torch.arange(num_tokens, device=device) * patch_frames + (patch_frames - 1) / 2
    return time_positions_L3(frame_L * float(hop_s))


def time_positions_L3(time_s_L: Tensor) -> Tensor:
    """Positions of tokens that have a time and no place in the frame."""
    return torch.stack([time_s_L, torch.zeros_like(time_s_L), torch.zeros_like(time_s_L)], dim=-1)
