"""Entry point of a run: `python -m train.launch --dataset DIR --out DIR [--recipe NAME] [--resume]`.

Checks what can be checked without other processes, then starts one `train.run` a GPU, or two CPU ranks
over gloo, under torch's elastic agent, and ends with the exit status of the rank that failed first. It goes
on when its own parent ends; the ranks end when it does, however it ends.
"""

import logging
import os
import sys

from infra.errors import AvgenError, ConfigError
from infra.telemetry import EXIT_FAILED, EXIT_USAGE
from shards.reader import num_samples
from train.arguments import Arguments, parse_arguments
from train.checkpoint import check_resume
from train.config import check_dataset_fits, load_train_config

_NUM_CPU_RANKS = 2
_EXIT_SIGNALLED = 128


def check_before_start(arguments: Arguments, *, num_ranks: int) -> None:
    """Raises `ConfigError` for a recipe, dataset or output folder that cannot be used."""
    check_resume(arguments.out_dir, resume=arguments.resume)
    config = load_train_config(arguments.recipe, overrides=arguments.overrides)
    check_dataset_fits(
        config,
        dataset_dir=arguments.dataset_dir,
        num_samples=num_samples(arguments.dataset_dir),
        num_ranks=num_ranks,
    )


def rank_environment(*, num_gpus: int, num_cores: int) -> dict[str, str]:
    """Variables that every rank starts with: threads that share the cores, and the accelerator's name."""
    num_local_ranks = num_gpus or _NUM_CPU_RANKS
    environment = {
        "OMP_NUM_THREADS": str(max(1, num_cores // num_local_ranks)),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if num_gpus == 0:
        # Nothing is compiled on a CPU, and without this DeepSpeed's first step imports torch's compiler back end
        # (3.0 s of a core; measured 2026-11-23, DeepSpeed 0.19.8, torch 2.15).
        environment |= {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCHDYNAMO_DISABLE": "1"}
    return environment


def start_ranks(words: list[str], *, num_ranks: int) -> int:
    """Run `train.run` once a rank on this machine; returns the exit status of the run."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # A rank that fails says why; the agent's own account of it is noise to an operator.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    agent_words = ["--standalone", "--nproc-per-node", str(num_ranks), "-m", "train.run", *words]
    try:
        torchrun.run(torchrun.parse_args(agent_words))
    except ChildFailedError as err:
        rank, failure = err.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        sys.stderr.write(
            f"error: rank {rank} must run to its end, got killed by signal {-failure.exitcode}\n"
        )
        return EXIT_FAILED
    except SignalException as err:
        return _EXIT_SIGNALLED + err.sigval
    return 0


def main() -> int:
    """Exit status of the run."""
    words = sys.argv[1:]
    try:
        arguments = parse_arguments(words)
        import torch

        num_gpus = torch.cuda.device_count()
        num_ranks = num_gpus or _NUM_CPU_RANKS
        check_before_start(arguments, num_ranks=num_ranks)
    except AvgenError as err:
        sys.stderr.write(f"error: {err}\n")
        return EXIT_USAGE if isinstance(err, ConfigError) else EXIT_FAILED
    os.environ |= rank_environment(num_gpus=num_gpus, num_cores=len(os.sched_getaffinity(0)))
    return start_ranks(words, num_ranks=num_ranks)


if __name__ == "__main__":
    sys.exit(main())
