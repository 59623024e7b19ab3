"""Files of a root that hold what is forgotten: media and bundles."""

import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO, NamedTuple

from infra.store import Store
from pipeline.forget_intent import Intent
from shards.writer import ShardWriter


class TarMember(NamedTuple):
    """A file of a bundle or shard."""

    key: str
    ext: str
    offset_bytes: int
    member_bytes: int


def forget_files(root: Store, intent: Intent) -> None:
    """Delete the files that go, and write the bundles that stay anew without the clips that go."""
    root.delete([*intent.media_keys, *intent.bundle_keys])
    for key in intent.cut_keys:
        if root.size_bytes(key) is not None:
            cut_tar(root, key, intent)


def cut_tar(store: Store, key: str, intent: Intent) -> int:
    """Write a bundle or shard anew without what goes; how many samples are left. Without any, the file goes.

    Members keep their bytes and their order, so doing it again changes nothing.
    """
    with store.open(key) as stream:
        members = list(tar_members(stream))
        samples = [(name, list(group)) for name, group in groupby(members, key=lambda member: member.key)]
        kept = [(name, group) for name, group in samples if not intent.takes(name)]
        if len(kept) == len(samples):
            return len(kept)
        if not kept:
            store.delete([key])
            return 0
        with ShardWriter(store, key) as writer:
            for name, group in kept:
                writer.write(name, {member.ext: _bytes_of(stream, member) for member in group})
    return len(kept)


def tar_members(stream: BinaryIO) -> Iterator[TarMember]:
    """What lies where in a tar of ours."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            key, _, ext = member.name.partition(".")
            yield TarMember(key, ext, member.offset_data, member.size)


def _bytes_of(stream: BinaryIO, member: TarMember) -> bytes:
    stream.seek(member.offset_bytes)
    return stream.read(member.member_bytes)
