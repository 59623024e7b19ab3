"""Flow matching on a straight path: noise at t = 0, data at t = 1.

Shapes: B batch, and whatever a sample has behind it ("...").
Source: Liu et al. 2022, arXiv 2209.03003, eq. 1; Lipman et al. 2022, arXiv 2210.02747, section 4.1.
"""

import torch
from torch import Tensor


def interpolate(noise_B: Tensor, data_B: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
    """Point on the path from noise (t = 0) to data (t = 1), and the path's constant velocity.

    Args:
        noise_B: standard normal, (B, ...).
        data_B: normalised data, same shape.
        t_B: flow time in [0, 1].
    """
    t = t_B.reshape(-1, *[1] * (data_B.ndim - 1))
    return (1 - t) * noise_B + t * data_B, data_B - noise_B


def sample_flow_time(normal_B: Tensor) -> Tensor:
    """Flow times in (0, 1) from standard normal numbers, logit-normal with location 0 and scale 1.

    Source: Esser et al. 2024, arXiv 2403.03206, eq. 19.
    """
    return torch.sigmoid(normal_B)


def velocity_loss_B(predicted_B: Tensor, target_B: Tensor) -> Tensor:
    """Mean squared error of each sample's velocity, float32, >= 0."""
    return (predicted_B.float() - target_B.float()).square().flatten(1).mean(dim=1)
