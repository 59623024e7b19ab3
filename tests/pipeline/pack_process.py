"""A pack in a process of its own, to be killed: `python -m tests.pipeline.pack_process ROOT [NAME]`."""

import sys

from pipeline.dataset import PackOptions
from tests.pipeline.in_process import pack_in_process

OPTIONS = PackOptions(samples_per_shard=4, overrides=("dataset.split.val=0.3",))

if __name__ == "__main__":
    print("begun", flush=True)
    root, name = (*sys.argv[1:], "d")[:2]
    pack_in_process(name, root, OPTIONS)
