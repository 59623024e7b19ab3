"""A pack in a process of its own, to be killed: `python -m tests.pipeline.pack_process ROOT`."""

import sys
from pathlib import Path

from pipeline.dataset import PackOptions
from tests.pipeline.in_process import pack_in_process

OPTIONS = PackOptions(samples_per_shard=4, overrides=("dataset.split.val=0.3",))

if __name__ == "__main__":
    print("begun", flush=True)
    pack_in_process("d", Path(sys.argv[1]), OPTIONS)
