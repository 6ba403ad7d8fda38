"""What the HTML pages have in common: their templates, and how a number is written.

The look is style.css.
"""

import os
import sys
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


@cache
def load_template(name: str) -> "jinja2.Template":
    """A template of this folder: it escapes everything; a name that is not given is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        bytecode_cache=_keep_compiled(),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=show_percent, number=show_number, pvalue=show_pvalue, count=lambda n: f"{n:,}"
    )
    return environment.get_template(name)


def _keep_compiled() -> "jinja2.BytecodeCache | None":
    """Templates compiled, beside this module's own bytecode: who may write there may do all.

    None where Python keeps none either. They are compiled again if this module or Jinja changes.
    """
    import jinja2

    folder, made_by = Path(cache_from_source(__file__)).parent, Path(__file__).read_text("utf-8")
    if sys.dont_write_bytecode or not os.access(folder, os.W_OK):
        return None

    class Kept(jinja2.FileSystemBytecodeCache):
        def get_source_checksum(self, source: str) -> str:
            return super().get_source_checksum(f"{source}{jinja2.__version__}{made_by}")

        def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
            with suppress(OSError):  # no room: the page is written nevertheless
                super().dump_bytecode(bucket)

    return Kept(str(folder))


def show_percent(share: float | None) -> str:
    """A share as text: 0.0493 is 4.93 %, with a space that does not break."""
    return "–" if share is None else f"{show_number(100 * share, 2)}\N{NO-BREAK SPACE}%"


def show_pvalue(value: float | None) -> str:
    """A p-value as text, as far as it matters."""
    return "under 0.0001" if value is not None and value < 0.0001 else show_number(value, 4)


def show_number(value: float | None, decimals: int = 3) -> str:
    """A number as text: -1234.5 is −1,234.500; a dash where there is none."""
    return "–" if value is None else f"{value:z,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
