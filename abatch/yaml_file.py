"""A file of YAML: read, checked, its mistakes told in the words of somebody who writes YAML."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from abatch.errors import ConfigError, suggest
from abatch.files import refuse_pipe

Section = TypeVar("Section", bound=BaseModel)
NAME = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
VERSION = r"^[0-9A-Za-z.]{1,20}$"
# What is expected, by pydantic's kind of error, or by the pattern of a text.
_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "list_type": "a list",
    "too_short": "at least one entry",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "at least {ge:.15g}",
    "less_than_equal": "at most {le:.15g}",
    NAME: "a name of letters, digits and _ that begins with a letter, at most 64 of them",
    FOLDER_NAME: "letters, digits, _, - and dots, at most 64 of them, first a letter or a digit",
    VERSION: "letters, digits and dots, at most 20 of them",
}
HOST = r"([\w.-]+|\[[\w:.%]+\])"
_PLAIN_ADDRESS = re.compile(rf"[a-z]+://{HOST}(:\d+)?")  # of a service; no login stands in it
_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "keys with values"}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, and says where it stumbles.

    YAML would keep the last of them in silence.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *defaults
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _stumble(key_node, "a key must be text")
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _stumble(key_node, f"the key {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Deep, always, by which a part that holds itself is refused."""
        if isinstance(node, yaml.ScalarNode):
            _refuse_surprise(node)
        try:
            return super().construct_object(node, deep=True)
        except yaml.constructor.ConstructorError as error:
            if "recursive" in str(error.problem):
                raise _stumble(node, "this part holds itself") from None
            raise
        except (ValueError, LookupError, AttributeError):  # 2026-13-45
            kind = node.tag.rpartition(":")[2]
            problem = f"this is no {kind}; put it between quotes if it is text"
            raise _stumble(node, problem) from None


def _refuse_surprise(node: yaml.ScalarNode) -> None:
    """Refuse what YAML reads otherwise than people: 010 is 8 to it, and 1:30 is 90."""
    kind, text = node.tag.rpartition(":")[2], node.value
    if (kind == "int" and re.match(r"[-+]?0\d", text)) or (
        kind in ("int", "float") and ":" in text
    ):
        base = 60 if ":" in text else 8
        problem = f"YAML reads {text} in base {base}; write it in base 10, or between quotes"
        raise _stumble(node, f"{problem} if it is text")
    if "\0" in text:
        raise _stumble(node, "a text has a NUL character, which no path and no database takes")


def _stumble(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def read(path: Path, section: type[Section]) -> Section:
    """What a file of YAML holds, checked by a model of pydantic's.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no valid YAML, or has mistakes, which `told` tells.
    """
    with told(path, section):
        return section.model_validate(_load(path))


def _load(path: Path) -> Any:
    try:
        refuse_pipe(path)
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        problem = f": cannot be read ({error.strerror}). Name the file with --config."
    except UnicodeDecodeError as error:
        problem = f": is not UTF-8 text (byte {error.start}). Save it as UTF-8."
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        tab = " Indent with spaces, not with tabs." if "'\\t'" in str(error.problem) else ""
        problem = f"{where}: is not valid YAML: {error.problem}.{tab}"
    except (yaml.YAMLError, RecursionError) as error:
        problem = f": is not valid YAML: {str(error).splitlines()[0]}."
    raise ConfigError(f"{path}{problem}")


def fault(found: object, expected: str, *path: str) -> ValidationError:
    """What a check across keys raises: what stands at the path from there on, what should."""
    error = PydanticCustomError("fault", expected)
    return ValidationError.from_exception_data("", [{"type": error, "loc": path, "input": found}])


@contextmanager
def told(place: object, section: type[BaseModel]) -> Iterator[None]:
    """Raise a ConfigError with a line for each mistake that the section's own check finds.

    A line has the place, the path to the key, the value found, what was expected and the mend.
    """
    try:
        yield
    except ValidationError as error:
        items = _drop_doubles(error.errors())
        faults = [f"{place}{_describe(section, item)}" for item in items]
        raise ConfigError("\n".join(faults)) from None


def _drop_doubles(items: list[Any]) -> list[Any]:
    """Without the missing keys that an unknown key beside them was meant to be.

    One mistake, one message.
    """
    missing = [item["loc"] for item in items if item["type"] == "missing"]
    for *section, key in [item["loc"] for item in items if item["type"] == "extra_forbidden"]:
        beside = [name for *other, name in missing if other == section]
        meant = [(*section, name) for name in difflib.get_close_matches(key, beside, n=1)]
        items = [item for item in items if item["loc"] not in meant]
    return items


def _describe(section: type[BaseModel], item: Any) -> str:
    """What `told` says of one fault, but for its place."""
    location, found, kind = [str(step) for step in item["loc"]], item["input"], item["type"]
    place = _name_place(location)
    if kind == "extra_forbidden":
        keys = _list_keys(section, location[:-1])
        expected = f"Expected one of {', '.join(keys)}.{suggest(location[-1], keys)}"
        return f"{place}: unknown key. {expected}"
    if kind == "missing":
        return f"{place}: this key is missing. Add it."
    context = item.get("ctx", {})
    if words := _EXPECTED.get(context.get("pattern", kind)):
        expected = words.format(**context)
    else:
        expected = re.sub("^(Input should be|Value error,) ", "", item["msg"])
    shown = _show(found, location)
    if kind == "invalid_key" or location[-1:] == ["[key]"]:
        place = _name_place(location[: -1 if kind == "invalid_key" else -2])
        if not isinstance(found, str):
            yes = ": YAML reads yes, no, on and off as true and false" * isinstance(found, bool)
            expected = f"text. Put the key between quotes{yes}"
        return f"{place}: found the key {shown}, expected {expected}."
    end = "" if expected.endswith((".", "?")) else "."
    return f"{place}: found {shown}, expected {expected}{end}{_mend(kind, found)}"


def _name_place(location: list[str]) -> str:
    keys = ".".join("(not shown)" if "://" in step else step for step in location)
    return f", {keys}" if keys else ""


def _mend(kind: str, found: object) -> str:
    """What to write instead, where that is plain."""
    if kind == "string_type" and isinstance(found, (int, float)):
        return " Put it between quotes."
    if kind in ("int_type", "float_type") and isinstance(found, str):
        with suppress(ValueError):
            number = float(found)
            if kind == "float_type" or (number.is_integer() and abs(number) < 1e15):
                return f" Write it as {number:.15g}, without quotes."
    return ""


def _show(found: object, location: list[str]) -> str:
    """The value in a message, unless it may hold a database's address, and with it a password."""
    if found is None:
        return "nothing"
    text = repr(found)
    holds_address = location[:1] == ["environments"] and location[2:] in ([], ["database"])
    is_plain = isinstance(found, str) and _PLAIN_ADDRESS.fullmatch(found)
    if not location or holds_address or ("://" in text and not is_plain):
        return f"{_KINDS.get(type(found), 'a value')} that is not shown, as it may be secret"
    return text if len(text) <= 80 else text[:77] + "..."


def _list_keys(section: type[BaseModel], location: list[str]) -> list[str]:
    """Names of the keys that may stand at `location`, read off the classes of the sections."""
    steps = iter(location)
    for step in steps:
        annotation = section.model_fields[step].annotation
        if get_origin(annotation) is dict:
            next(steps, None)  # the name of an entry
        kinds = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
        section = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return [field.alias or name for name, field in section.model_fields.items()]
