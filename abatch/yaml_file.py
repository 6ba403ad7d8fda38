"""A file of YAML: read, and where it stumbles."""

from pathlib import Path
from typing import Any

import yaml

from abatch.errors import ConfigError


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
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # 2026-13-45
            kind = node.tag.rpartition(":")[2]
            problem = f"this is no {kind}; put it between quotes if it is text"
            raise _stumble(node, problem) from None


def _stumble(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def read_yaml(path: Path) -> Any:
    """What a file of YAML holds.

    Raises
    ------
    ConfigError
        If it cannot be read, or is no valid YAML: with line and column, and the mend.
    """
    try:
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
