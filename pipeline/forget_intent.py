"""What is being forgotten: written down before anything is removed, so that whoever comes next can finish it.

The file holds the names of what goes; it is the last thing that goes.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from infra.config import canonical_json
from infra.store import Store
from shards.schema import source_of

FOLDER = "forgetting"
"""Below the root: the intent, and what is set aside until it is done."""
PARTS, ROWS = f"{FOLDER}/parts", f"{FOLDER}/rows"
"""Set aside: shards that were written anew, rows of the lake that are to be."""
_INTENT_KEY = f"{FOLDER}/intent.json"
_FORGOTTEN = "forgotten"
TOKEN = re.compile(r"[^\s\"'(),;<>\\]+")
"""What an id or an address in a message or a query is; DuckDB reads it the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A row of `forgotten`: that something was asked to be forgotten, and nothing of what it was."""

    kind: str
    """`url`, `source_id`, `channel` or `clip_id`."""
    sha256: str
    """Of the canonical value."""
    num_sources: int
    num_clips: int
    """Candidate clips of these sources, or the named one."""


@dataclass(frozen=True, kw_only=True)
class Intent:
    """All that is needed to forget, also when half of it is done."""

    run_id: str
    forgotten_at: str
    entries: tuple[AuditEntry, ...]
    source_ids: tuple[str, ...]
    clip_ids: tuple[str, ...]
    """Clips of these sources, and clips that go while the rest of their source stays."""
    names: tuple[str, ...]
    """What was named, and the people that nothing which stays is from: they go from queries and messages, too."""
    words: tuple[str, ...]
    """Ids and addresses that nothing which stays has, likewise."""
    media_keys: tuple[str, ...]
    bundle_keys: tuple[str, ...]
    """Bundles that go as a whole."""
    cut_keys: tuple[str, ...]
    """Bundles that stay without some of their clips."""
    partial_names: tuple[str, ...]
    """Folders below `partial/`."""
    blocks: tuple[tuple[str, str], ...]
    """Kind and hashed value."""
    plain_blocks: tuple[tuple[str, str], ...]
    """Entries of the block list that say what the hashed ones hide."""
    versions: tuple[tuple[str, int], ...]
    """Dataset versions that hold any of it."""
    num_files: int
    """Files of `media/` and `staged/` that go or change."""
    num_samples: int
    """Samples of dataset versions that go, one counted in each of its versions."""

    @cached_property
    def _sources(self) -> frozenset[str]:
        return frozenset(self.source_ids)

    @cached_property
    def _clips(self) -> frozenset[str]:
        return frozenset(self.clip_ids)

    def takes(self, clip_id: str) -> bool:
        """Whether a clip is to go."""
        return clip_id in self._clips or source_of(clip_id) in self._sources

    @cached_property
    def lone_clip_ids(self) -> tuple[str, ...]:
        """Clips that go while the rest of their source stays."""
        return tuple(clip_id for clip_id in self.clip_ids if source_of(clip_id) not in self._sources)

    @cached_property
    def tokens(self) -> frozenset[str]:
        """The words that are found as parts of a text between blanks and brackets, however many there are."""
        return frozenset(word for word in self.words if TOKEN.fullmatch(word))

    @cached_property
    def pattern(self) -> str:
        """A regular expression that finds the names in a text, in JSON and in SQL."""
        spellings = {spelling for name in self.names for spelling in _spellings(name)}
        return "|".join(map(re.escape, sorted(spellings, key=lambda text: (-len(text), text))))

    def redact(self, text: str) -> str:
        """The text without the names and words."""
        text = self._pattern.sub(_FORGOTTEN, text)
        return TOKEN.sub(lambda token: _FORGOTTEN if token[0].rstrip(".:") in self.tokens else token[0], text)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w)(?:{self.pattern})(?!\w)")


def read_intent(root: Store) -> Intent | None:
    """What somebody has begun to forget; `None` when nothing is left to do."""
    try:
        tree = json.loads(root.read(_INTENT_KEY))
    except FileNotFoundError:
        return None
    entries = tuple(AuditEntry(**entry) for entry in tree.pop("entries"))
    lists = {name: tuple(_tuples(value)) for name, value in tree.items() if isinstance(value, list)}
    return Intent(entries=entries, **(tree | lists))


def write_intent(root: Store, intent: Intent) -> None:
    """From here on it will be forgotten, whatever happens."""
    root.write(_INTENT_KEY, canonical_json(asdict(intent)))


def drop_intent(root: Store) -> None:
    """It is forgotten, and nothing is set aside any more."""
    root.delete([_INTENT_KEY])
    root.sweep(FOLDER)


def _tuples(values: list[object]) -> Iterator[object]:
    for value in values:
        yield tuple(value) if isinstance(value, list) else value


def _spellings(word: str) -> Iterator[str]:
    """The word as it is, in a literal of SQL, and both in a string of JSON."""
    for text in (word, word.replace("'", "''")):
        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
