"""Lists of a version's shards for other programs: an index for `wids`, and a plain list of paths. Pure.

Paths are relative to the folder of the version, so that they hold wherever the dataset is copied or mounted.
"""

import json

from shards.manifest import Manifest, ShardEntry

# Source: webdataset/webdataset, the index that its program widsindex writes; sha256 is an addition of ours.
_KIND, _WIDS_VERSION = "wids-shard-index-v1", 1


def wids_name(split: str) -> str:
    """Name of the wids index of a split."""
    return f"{split}.wids.json"


def list_name(split: str) -> str:
    """Name of the list of a split's shards."""
    return f"{split}.txt"


def wids_index(manifest: Manifest, split: str) -> bytes:
    """The index of a split for `wids.ShardListDataset`: path, samples and bytes of every shard."""
    shards = [
        {
            "url": shard.path_from(manifest.version),
            "nsamples": shard.num_samples,
            "filesize": shard.shard_bytes,
            "sha256": shard.sha256,
        }
        for shard in _shards_of(manifest, split)
    ]
    index = {
        "__kind__": _KIND,
        "wids_version": _WIDS_VERSION,
        "name": f"{manifest.name}-v{manifest.version}-{split}",
        "shardlist": shards,
    }
    return json.dumps(index, indent=1).encode() + b"\n"


def shard_list(manifest: Manifest, split: str) -> bytes:
    """The paths of a split's shards, a line each."""
    return "".join(f"{shard.path_from(manifest.version)}\n" for shard in _shards_of(manifest, split)).encode()


def _shards_of(manifest: Manifest, split: str) -> list[ShardEntry]:
    return [shard for shard in manifest.shards if shard.split == split]
