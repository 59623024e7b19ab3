"""The training engine: DeepSpeed ZeRO-2 over the ranks of this run. The only module that imports deepspeed.

On a CPU (`DS_ACCELERATOR=cpu`, set by `train.launch`) the ranks talk over gloo and compute in float32; on a
GPU that has bfloat16 they talk over NCCL and compute in bfloat16 with float32 master weights.
"""

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.errors import ConfigError, IntegrityError
from model.records import AudioInput, Conditioning, Velocities, VideoInput
from train.config import OptimiserConfig

Item = TypeVar("Item")

_MOMENTS = ("exp_avg", "exp_avg_sq")
"""What torch's AdamW keeps of every parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among all of the run."""

    rank: int
    num_ranks: int
    device: torch.device


def join_ranks() -> Ranks:
    """Meet the other ranks; the launcher's environment says where.

    Raises:
        ConfigError: not started by a launcher.
    """
    if "RANK" not in os.environ:
        raise ConfigError(
            "train.run must be started once a rank by a launcher, got no RANK; use train.launch"
        )
    # Assumption, not measured: compiling the shared-memory kernel at start costs more than gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Ranks(rank=dist.get_rank(), num_ranks=dist.get_world_size(), device=device)


def leave_ranks() -> None:
    """Part from the other ranks."""
    dist.destroy_process_group()


def wait_for_ranks() -> None:
    """Go on when every rank has come here."""
    dist.barrier()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over all ranks, on every rank.

    Raises:
        IntegrityError: another rank has ended, which says itself why.
    """
    summed = values.clone()
    try:
        dist.all_reduce(summed)
    except RuntimeError as err:
        raise IntegrityError("all ranks must take part in a step, another one has ended") from err
    return summed


def gather_over_ranks(item: Item) -> list[Item]:
    """The item of every rank in rank order, on every rank."""
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


class Engine:
    """A model under ZeRO-2: forward, backward, optimiser step, and the shard of state that this rank owns."""

    def __init__(self, model: nn.Module, config: OptimiserConfig, *, rank_batch_samples: int) -> None:
        optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=(config.beta_1, config.beta_2),
            weight_decay=config.weight_decay,
            fused=False,
        )
        self._config = config
        self._engine, self._optimiser, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimiser,
            config=_deepspeed_settings(config, rank_batch_samples=rank_batch_samples),
        )

    def __call__(
        self, video: VideoInput | None, audio: AudioInput | None, conditioning: Conditioning
    ) -> Velocities:
        """The model's prediction, with what a backward pass needs."""
        return self._engine(video, audio, conditioning)

    def update(self, loss: Tensor, *, step: int) -> float:
        """One optimiser step down the gradient of `loss`; returns the norm of the gradient before clipping.

        Args:
            step: steps done before this one; it decides the learning rate.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate_at(step, self._config)
        self._engine.backward(loss)
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def model_state(self) -> dict[str, Tensor]:
        """The weights, by name, as they compute."""
        return {name: tensor.detach() for name, tensor in self._engine.module.state_dict().items()}

    def optimiser_shard(self) -> dict[str, Tensor]:
        """This rank's run of the flattened float32 weights and their moments, and the number of updates."""
        master = self._master()
        state = self._optimiser.optimizer.state[master]
        moments = {name: state[name].detach() for name in _MOMENTS}
        return {"master": master.detach(), "num_updates": state["step"].detach(), **moments}

    def restore(self, model_state: dict[str, Tensor], optimiser_shards: list[dict[str, Tensor]]) -> None:
        """Take over a checkpoint, of any number of ranks: the shards are runs of one flat vector.

        Raises:
            IntegrityError: the checkpoint belongs to a model of another shape.
        """
        master = self._master()
        first = dist.get_rank() * master.numel()
        try:
            self._engine.module.load_state_dict(model_state)
            pieces = {
                name: _piece([shard[name] for shard in optimiser_shards], first, like=master)
                for name in ("master", *_MOMENTS)
            }
        except (KeyError, RuntimeError) as err:
            raise IntegrityError(f"a checkpoint must have this model's shape, got {err}") from err
        master.data.copy_(pieces["master"])
        self._optimiser.optimizer.state[master] = {
            "step": optimiser_shards[0]["num_updates"].clone(),
            **{name: pieces[name] for name in _MOMENTS},
        }

    def _master(self) -> Tensor:
        """Float32 weights that this rank updates; there is one parameter group, hence one vector."""
        (master,) = self._optimiser.single_partition_of_fp32_groups
        return master


def learning_rate_at(step: int, config: OptimiserConfig) -> float:
    """Rate of the step after `step` steps: linear from 0 over the warm-up, then constant."""
    return config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))


def _piece(shards: list[Tensor], first: int, *, like: Tensor) -> Tensor:
    """`like.numel()` numbers from `first` on of the shards laid end to end; padding behind the end is 0."""
    flat = torch.cat(shards)[first : first + like.numel()]
    piece = torch.zeros_like(like, requires_grad=False)
    piece[: flat.numel()] = flat.to(like.device)
    return piece


def _deepspeed_settings(config: OptimiserConfig, *, rank_batch_samples: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": rank_batch_samples,
        "gradient_clipping": config.max_gradient_norm,
        "zero_optimization": {"stage": 2, "round_robin_gradients": False},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": torch.cuda.is_available() and torch.cuda.is_bf16_supported()},
        "steps_per_print": 2**62,
    }
