"""What pydantic finds wrong in ml_config.yaml, in the words of somebody who writes YAML."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from abatch.errors import suggest

NAME = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
VERSION = r"^[0-9A-Za-z.]{1,20}$"
# What pydantic expects, in the words of somebody who writes YAML.
_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "list_type": "a list",
    "too_short": "at least one entry",
    "int_type": "a whole number",
    "float_type": "a number",
    NAME: "a name of letters, digits and _ that begins with a letter, at most 64 of them",
    VERSION: "letters, digits and dots, at most 20 of them",
}
_PLAIN = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater": "more",
}
_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "keys with values"}


class Fault(ValueError):
    """What a check across keys found: the path from there on, what stands there, what should."""

    def __init__(self, found: object, expected: str, *path: str) -> None:
        super().__init__(expected)
        self.found, self.path = found, path


def drop_doubles(items: list[Any]) -> list[Any]:
    """Without the missing keys that an unknown key beside them was meant to be.

    One mistake, one message.
    """
    missing = {item["loc"] for item in items if item["type"] == "missing"}
    meant = set()
    for item in items:
        if item["type"] == "extra_forbidden":
            beside = [str(loc[-1]) for loc in missing if loc[:-1] == item["loc"][:-1]]
            meant |= {
                (*item["loc"][:-1], name)
                for name in beside
                if f"{name!r}?" in suggest(str(item["loc"][-1]), beside)
            }
    return [item for item in items if item["type"] != "missing" or item["loc"] not in meant]


def describe(path: Path, root: type[BaseModel], item: Any) -> str:
    """One line for one fault that pydantic found: file, path to the key, found, expected, mend.

    Parameters
    ----------
    root : the model whose check found it
    item : one of the error's `errors()`
    """
    location, found, kind = [str(step) for step in item["loc"]], item["input"], item["type"]
    if kind == "extra_forbidden":
        keys = _list_keys(root, location[:-1])
        expected = f"Expected one of {', '.join(keys)}.{suggest(location[-1], keys)}"
        return f"{_place(path, location)}: unknown key. {expected}"
    if kind == "missing":
        return f"{_place(path, location)}: this key is missing. Add it."
    expected = _EXPECTED.get(kind) or item["msg"].removeprefix("Input should be ")
    for words, plain in _PLAIN.items():
        expected = expected.replace(words, plain)
    if kind == "value_error":
        fault = item["ctx"]["error"]
        expected = str(fault)
        if isinstance(fault, Fault):
            location, found = [*location, *fault.path], fault.found
    elif kind == "string_pattern_mismatch":
        expected = _EXPECTED[item["ctx"]["pattern"]]
    if location[-1:] == ["[key]"] or kind == "invalid_key":
        place = _place(path, location[: -1 if kind == "invalid_key" else -2])
        if not isinstance(found, str):
            yes = ": YAML reads yes, no, on and off as true and false" * isinstance(found, bool)
            expected = f"text. Put the key between quotes{yes}"
        return f"{place}: found the key {_show(found, location)}, expected {expected}."
    end = "" if expected.endswith((".", "?")) else "."
    shown = f"found {_show(found, location)}, expected {expected}{end}"
    return f"{_place(path, location)}: {shown}{_mend(kind, found)}"


def _place(path: Path, location: list[str]) -> str:
    keys = ".".join("(not shown)" if "://" in step else step for step in location)
    return f"{path}, {keys}" if keys else str(path)


def _mend(kind: str, found: object) -> str:
    """What to write instead, where that is plain."""
    if kind == "string_type" and isinstance(found, (int, float, bool)):
        return " Put it between quotes."
    if kind in ("int_type", "float_type") and isinstance(found, str):
        try:
            return f" Write it as {float(found):.15g}, without quotes."
        except ValueError:
            pass
    return ""


def _show(found: object, location: list[str]) -> str:
    """The value in a message, unless it may hold a database's address, and with it a password."""
    if found is None:
        return "nothing"
    text = repr(found)
    holds_address = location[:1] == ["environments"] and location[2:] in ([], ["database"])
    if not location or holds_address or "://" in text:
        return f"{_KINDS.get(type(found), 'a value')} that is not shown, as it may be secret"
    return text if len(text) <= 80 else text[:77] + "..."


def _list_keys(root: type[BaseModel], location: list[str]) -> list[str]:
    """Names of the keys that may stand at `location`, read off the classes below `root`."""
    section: Any = root
    steps = iter(location)
    for step in steps:
        section = section.model_fields[step].annotation
        while not (isinstance(section, type) and issubclass(section, BaseModel)):
            section = section.__args__[-1]  # dict[str, Section]: the next step is the entry's name
            next(steps, None)
    return [field.alias or name for name, field in section.model_fields.items()]
