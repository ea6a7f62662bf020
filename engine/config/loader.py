"""Reads the configuration: YAML or JSON, ``${ENV}`` references, secrets from elsewhere, and every problem at once.

No message made here holds a value of the file: any of them may be, or contain, a secret. That is also why YAML's own
errors, which quote the text, are reduced to line and column.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from engine.config import secrets
from engine.config.model import Config
from engine.config.rules import broken_rules, section
from engine.errors import ConfigError, Problem

ENVIRONMENT = "REFLEX_CONFIG"
"""The variable that holds the path of the configuration, or its text, when no file is named."""

M = TypeVar("M", bound=BaseModel)

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}|$)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load_config(path: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration from `path`, or as ``REFLEX_CONFIG`` in `environ` (default: the process's) says.

    Relative paths in it are relative to the working directory. Raises ConfigError with every problem found.
    """
    env = os.environ if environ is None else environ
    if path is not None:
        return parse_config(read_file(Path(path), "--config"), environ=env)
    given = env.get(ENVIRONMENT, "")
    if not given.strip():
        raise ConfigError([Problem("--config", f"is required, or the variable {ENVIRONMENT} (a path, or the YAML)")])
    if _is_text(given):
        return parse_config(given, environ=env)
    return parse_config(read_file(Path(given), ENVIRONMENT), environ=env)


def parse_config(text: str, *, environ: Mapping[str, str] | None = None) -> Config:
    """Build the configuration from YAML or JSON text. Raises ConfigError with every problem found."""
    raw, problems = read_mapping(text, environ=environ)
    problems += broken_rules(raw)
    password = secrets.resolve_password(section(raw, "connection"), problems)
    config = validated(Config, raw, problems)
    if password is None:
        return config
    return config.model_copy(update={"connection": config.connection.model_copy(update={"password": password})})


def read_mapping(
    text: str, *, environ: Mapping[str, str] | None = None, empty: bool = False
) -> tuple[dict[str, Any], list[Problem]]:
    """Read YAML or JSON text, references replaced; with the problems that this found. `empty`: no text will do.

    Raises ConfigError.
    """
    problems: list[Problem] = []
    raw = _substitute(_parse(text, empty=empty), os.environ if environ is None else environ, "", problems)
    return raw, problems


def validated(model: type[M], raw: Mapping[str, Any], problems: list[Problem]) -> M:
    """Build a file's model. Raises ConfigError with `problems` and with what is wrong in the fields."""
    try:
        built = model.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems = [*problems, *(_problem(model, e["type"], e["loc"]) for e in found)]
        raise ConfigError(_distinct(problems)) from None
    if problems:
        raise ConfigError(_distinct(problems))
    return built


def read_file(path: Path, field: str) -> str:
    """The text of a configuration file that `field` names. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([Problem(field, f"{path} cannot be read: {reason}")]) from None


def _is_text(given: str) -> bool:
    """Whether ``REFLEX_CONFIG`` holds the configuration itself: no path has a line break, a brace or a YAML key."""
    return "\n" in given or given.lstrip().startswith("{") or ": " in given


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice: the first of the two would silently be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    place = f"line {key.start_mark.line + 1}"
                    raise ConfigError([Problem(str(key.value), f"is there twice ({place}); keep one of them")])
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str, *, empty: bool = False) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        hint = "put a value with special characters into single quotes"
        raise ConfigError([Problem("(file)", f"is not valid YAML or JSON{place}; {hint}")]) from None
    except ValueError:
        raise ConfigError([Problem("(file)", "holds a value of a form that YAML cannot read; quote it")]) from None
    if raw is None and empty:
        return {}
    if not isinstance(raw, dict):
        expected = "a mapping" if empty else "a mapping with connection, instance, ..."
        raise ConfigError([Problem("(file)", f"must be {expected}")])
    return raw


def _substitute(node: Any, env: Mapping[str, str], field: str, problems: list[Problem]) -> Any:
    """Replace the references in every string; a key without a value counts as absent. Keys become text."""
    if isinstance(node, dict):
        return {
            str(k): _substitute(v, env, f"{field}.{k}" if field else str(k), problems)
            for k, v in node.items()
            if v is not None
        }
    if isinstance(node, list):
        return [_substitute(v, env, f"{field}[{i}]", problems) for i, v in enumerate(node)]
    if isinstance(node, str):
        return _expand(node, env, field, problems)
    return node


def _expand(text: str, env: Mapping[str, str], field: str, problems: list[Problem]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "${"
        if not match[2]:
            problems.append(Problem(field, "has a ${ that is not closed ($${ is a literal ${)"))
        elif not _VARIABLE.fullmatch(name):
            problems.append(Problem(field, "has ${...} without a variable's name in it ($${ is a literal ${)"))
        elif name not in env:
            problems.append(Problem(field, f"the environment variable {name} is not set ($${{ is a literal ${{)"))
        else:
            return env[name]
        return ""

    return _REFERENCE.sub(value, text)


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """One problem per field, the first found (a missing variable explains the empty value it leaves).

    A list is not said to be wrong beside its wrong element.
    """
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.field, problem)
    return [p for p in first.values() if not any(field.startswith(f"{p.field}[") for field in first)]


def _problem(model: type[BaseModel], kind: str, loc: tuple[int | str, ...]) -> Problem:
    """Say what is wrong at `loc` in the words of the field's description."""
    field = dotted(loc)
    if kind == "extra_forbidden":
        return Problem(field, _unknown(str(loc[-1]), _fields_at(model, loc[:-1])))
    description = ""
    for depth in range(len(loc), 0, -1):
        owner = _model_at(model, loc[: depth - 1])
        info = _named(owner, loc[depth - 1]) if owner is not None else None
        if info is not None:
            description = info
            break
    if kind == "missing":
        return Problem(field, f"is required: {description}")
    return Problem(field, f"must be {description}" if description else "must be a mapping")


def dotted(loc: Sequence[int | str]) -> str:
    """A field's dotted name: ``tables.include[0]``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(file)"


def _unknown(name: str, known: Sequence[str]) -> str:
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower().replace("-", "_")
    close = [k for k in known if snake == k or (len(k) > 3 and snake.startswith(k)) or k.startswith(snake)]
    close = close or difflib.get_close_matches(snake, known, n=1)
    return (
        f"is not a known field; did you mean {close[0]}?"
        if close
        else (f"is not a known field; known here: {', '.join(known)}")
    )


def _named(model: type[BaseModel], part: int | str) -> str | None:
    for name, info in model.model_fields.items():
        if part == (info.alias or name):
            return info.description
    return None


def _fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    owner = _model_at(model, loc)
    return [] if owner is None else [info.alias or name for name, info in owner.model_fields.items()]


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel] | None:
    """The model of the mapping at `loc` (through the values of a dictionary, where one is on the way)."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            infos = {info.alias or name: info.annotation for name, info in current.model_fields.items()}
            current = infos.get(str(part))
        else:
            inner = [a for a in get_args(current) if isinstance(a, type) and issubclass(a, BaseModel)]
            current = inner[0] if inner else None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None
