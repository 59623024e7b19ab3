"""Recipes: one TOML file, overrides by field path, checked whole before work starts."""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import ConfigError, IntegrityError


class Config(BaseModel):
    """Base of every settings class: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(
    model: type[ConfigT], *, name_or_path: str, builtin_dir: Path, overrides: Sequence[str]
) -> ConfigT:
    """Settings from a recipe and `PATH=VALUE` overrides.

    Args:
        name_or_path: a file, or the name of a recipe in `builtin_dir` without its `.toml`.
        overrides: for example `filters.snr_db.min=12`; values are TOML, bare words are strings.

    Raises:
        ConfigError: no such recipe, not TOML, an unknown key, a value of the wrong type or range.
    """
    path = _find_recipe(name_or_path, builtin_dir)
    try:
        tree = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"a recipe must be TOML, {path} is not: {err}") from err
    return _validated(model, tree, overrides, f"recipe {path.name}")


def override_config(config: ConfigT, overrides: Sequence[str]) -> ConfigT:
    """The same settings with `PATH=VALUE` overrides applied.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or range.
    """
    return _validated(type(config), config.model_dump(mode="json"), overrides, "settings of the earlier run")


def _validated(model: type[ConfigT], tree: dict[str, Any], overrides: Sequence[str], origin: str) -> ConfigT:
    for override in overrides:
        _apply_override(tree, override)
    try:
        return model.model_validate(tree)
    except ValidationError as err:
        raise ConfigError(f"{_first_problem(err, model)} ({origin})") from err


def config_hash(config: BaseModel, *, exclude: frozenset[str] = frozenset()) -> str:
    """First 12 hex digits of the sha256 of the settings in canonical JSON."""
    tree = config.model_dump(mode="json", exclude=set(exclude))
    return hashlib.sha256(canonical_json(tree)).hexdigest()[:12]


def canonical_json(tree: object) -> bytes:
    """The one JSON text of a tree: ASCII, sorted keys, no blanks and no line ends.

    Raises:
        IntegrityError: a number is not finite.
    """
    try:
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as err:
        raise IntegrityError("every number written as JSON must be finite, got NaN or infinity") from err
    return text.encode("ascii")


def _find_recipe(name_or_path: str, builtin_dir: Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    builtin = builtin_dir / f"{name_or_path}.toml"
    if builtin.is_file():
        return builtin
    known = ", ".join(sorted(p.stem for p in builtin_dir.glob("*.toml")))
    raise ConfigError(f"a recipe must be a file or one of {known}; got {name_or_path}")


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set must look like filters.snr_db.min=12, got {override!r}")
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {key} is a value, not a group of settings")
        node = child
    node[keys[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _first_problem(err: ValidationError, model: type[BaseModel]) -> str:
    problem = err.errors()[0]
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name}{did_you_mean(location[-1], _known_keys(model, location[:-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}, got {problem['input']!r}" if name else message


def _known_keys(model: Any, location: Sequence[str]) -> list[str]:
    for part in location:
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            return []
        model = model.model_fields[part].annotation
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def storable_text(text: str) -> str:
    """The text with what UTF-8 cannot hold (lone surrogates) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def did_you_mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint to append to an error: the nearest known word, else all of them."""
    near = difflib.get_close_matches(word, list(known), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(known)}" if known else ""
