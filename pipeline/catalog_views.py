"""The views of the catalog as SQL: what follows from the lake's tables, which are in the schema `raw`. Pure."""

from collections.abc import Mapping

from filters.registry import Bounds
from pipeline.verdict_sql import bounds_rows, verdict_columns

# A feed or playlist that could not be listed is a source that failed; once a later run has listed it, its entries
# are the sources and it is none itself, unless it is its only entry.
OUTCOMES = """
create view listed as
select source_id from (
    select source_id, max(listed_at) filter (complete) as listed_at from listings group by 1
    having listed_at is not null and not bool_or(list_contains(entry_ids, source_id))
)
left join (select subject_id as source_id, max(failed_at) as failed_at from failures group by 1)
using (source_id) where failed_at is null or listed_at > failed_at;
create view outcomes as
select source_id, recipe_id,
       case when bool_or(kept) then 'kept' when bool_or(missing) then 'missing' else 'rejected' end as outcome,
       null as stage, null as code, null as message, null as host, null as attempt, null as next_retry_at
from clips group by 1, 2
union all
select source_id, recipe_id, 'failed', latest.stage, latest.code, latest.message, latest.host, latest.attempt,
       latest.next_retry_at
from (
    select subject_id as source_id, recipe_id,
           max_by({stage: stage, code: code, message: message, host: host, attempt: attempt,
                   next_retry_at: next_retry_at}, failed_at) as latest
    from failures f
    where subject_id not in (select source_id from listed) and not exists (
        select 1 from raw.clips c where c.source_id = f.subject_id and c.recipe_id = f.recipe_id
    ) group by 1, 2
)
"""

# A clip that is compared again has a new row.
DUPLICATES = """
create view duplicates as
select clip_id, recipe_id, max_by(source_id, found_at) as source_id, max_by(group_id, found_at) as group_id,
       max_by(methods, found_at) as methods, max_by(run_id, found_at) as run_id, max(found_at) as found_at
from raw.duplicates group by clip_id, recipe_id
"""

_FIRST_PASS = "select * from raw.clips"
_LAST_PASS = """select c.* from raw.clips c left join (
    select source_id, recipe_id, max(pass_index) as last_index from raw.clips where pass_index > 0 group by all
) using (source_id, recipe_id) where pass_index = coalesce(last_index, 0)"""


def clips_view(bounds_by_recipe: Mapping[str, Mapping[str, Bounds]], *, has_later_passes: bool) -> str:
    """The statement that makes the view `clips`: the last pass over each source, judged by its recipe's bounds."""
    return f"""
        create or replace view clips as select *, {verdict_columns(bounds_by_recipe)}
        from ({_LAST_PASS if has_later_passes else _FIRST_PASS})"""


def bounds_table(bounds_by_recipe: Mapping[str, Mapping[str, Bounds]]) -> str:
    """Statements that make the table `bounds`."""
    rows = ", ".join(
        f"('{recipe_id}', '{name}', '{lowest!r}'::double, '{highest!r}'::double)"
        for recipe_id, name, lowest, highest in bounds_rows(bounds_by_recipe)
    )
    columns = "recipe_id varchar, filter varchar, lowest double, highest double"
    return f"create or replace table bounds ({columns});" + (
        f"insert into bounds values {rows}" if rows else ""
    )
