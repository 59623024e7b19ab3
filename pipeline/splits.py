"""Splits that never leak, as functions and as the same in SQL. Pure.

A source belongs to one channel: the channel id that its first fetch states, else the uploader, else the source is
a channel of its own. A hash of the channel draws the split of all that it has, so that a clip never changes its
split while the lake grows, and a higher held-out share only moves channels out of train.

Channels may share what their hash does not know of: a media file, the name of an uploader, a duplicate group. Such
a bond keeps to one split: the one in which the dataset's last version has it, else the one that is held out most.
What it has in other splits is left out, and counted.
"""

from hashlib import sha256

from pipeline.mixture import SplitsConfig
from pipeline.mixture_sql import sql_number, sql_string

SPLITS = ("train", "val", "test")
"""The least held out first."""

_HASH_DIGITS = 13
"""Hex digits, 52 bits: a double holds them exactly, here and in DuckDB."""

_HELD_OUT = f"list_position({list(SPLITS)!r}, split)"

_BONDS = """
    select source_id, 'file' as bond, sha256 as name from fetches where sha256 != ''
    union all select source_id, 'channel', channel_id from fetches where channel_id != ''
    union all select source_id, 'uploader', uploader from fetches where uploader != ''"""
"""What sources share, by every fetch that there ever was."""


def channel_of(*, channel_id: str, uploader: str, source_id: str) -> str:
    """What a source shares its split with; an empty text is one that is not stated."""
    return channel_id or uploader or source_id


def split_of(channel: str, config: SplitsConfig) -> str:
    """The split of all clips of a channel."""
    digits = sha256(f"{config.salt}/{channel}".encode()).hexdigest()[:_HASH_DIGITS]
    number = int(digits, 16) / 16**_HASH_DIGITS
    if number < config.test:
        return "test"
    return "val" if number >= 1 - config.val else "train"


def split_sql(config: SplitsConfig) -> str:
    """`split_of` as an expression over `channel`."""
    if not (config.val or config.test):
        return "'train'"
    salt = sql_string(f"{config.salt}/")
    number = f"('0x' || sha256({salt} || channel)[1:{_HASH_DIGITS}])::ubigint / {16**_HASH_DIGITS}"
    return (
        f"case when {number} < {sql_number(config.test)} then 'test'"
        f" when {number} >= {sql_number(1 - config.val)} then 'val' else 'train' end"
    )


def origins_sql(config: SplitsConfig) -> str:
    """A row a source: `source_id, kind, channel, uploader, licence, split`, by its first fetch."""
    return f"""
    select *, {split_sql(config)} as split from (
        select source_id, kind, uploader, licence,
               coalesce(nullif(channel_id, ''), nullif(uploader, ''), source_id) as channel
        from (select source_id, arg_min(kind, (added_at, run_id, kind)) as kind from sources group by source_id)
        full join (
            select source_id, unnest(arg_min({{channel_id: channel_id, uploader: uploader, licence: licence}},
                                             (fetched_at, run_id, channel_id, uploader, licence)))
            from fetches group by source_id
        ) using (source_id)
    )"""


def apart_sql(before: str, *, by_group: bool) -> dict[str, str]:
    """Common table expressions, the last of which has the clips of `before` that leak nothing into another split.

    Args:
        before: has `source_id, split, packed`, and `group_id` for `by_group`.
        by_group: duplicates of one another are a bond, too.
    """
    stays = f"arg_max(split, (packed, {_HELD_OUT})) as split"
    tables = {
        "spread": f"select source_id, split, bool_or(packed) as packed from {before} group by source_id, split",
        "bonds": _BONDS,
        "torn_bonds": f"""
    select bond, name, {stays} from bonds join spread using (source_id)
    group by bond, name having min(split) != max(split)""",
        "leaking_sources": """
    select distinct source_id from bonds join torn_bonds using (bond, name) join spread using (source_id)
    where spread.split != torn_bonds.split""",
    }
    apart = f"select c.* from {before} c anti join leaking_sources using (source_id)"
    if by_group:
        tables["torn_groups"] = f"""
    select group_id, {stays} from {before} where group_id is not null
    group by group_id having min(split) != max(split)"""
        apart += """
    left join torn_groups t on t.group_id = c.group_id where coalesce(t.split, c.split) = c.split"""
    return tables | {"apart": apart}
