"""`python -m tests.pipeline.lifecycle_process COMMAND ROOT NAME ...`: a command in a process to be killed."""

import sys

from pipeline.forget import forget, plan_forget
from pipeline.repair_dataset import plan_repair, repair


def main(command: str, root: str, *names: str) -> None:
    if command == "forget":
        forget(plan_forget(root, channels=names[:1], clip_ids=names[1:]))
    else:
        repair(plan_repair(names[0], root))


if __name__ == "__main__":
    main(*sys.argv[1:])
