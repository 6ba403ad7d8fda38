"""What the HTML pages have in common: their templates, and how a number is written.

The look is style.css.
"""

from functools import cache
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
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=show_percent, number=show_number, pvalue=show_pvalue, count=lambda n: f"{n:,}"
    )
    return environment.get_template(name)


def show_percent(share: float | None) -> str:
    """A share as text: 0.0493 is 4.93 %, with a space that does not break."""
    return "–" if share is None else f"{show_number(100 * share, 2)}\N{NO-BREAK SPACE}%"


def show_pvalue(value: float | None) -> str:
    """A p-value as text, as far as it matters."""
    return "under 0.0001" if value is not None and value < 0.0001 else show_number(value, 4)


def show_number(value: float | None, decimals: int = 3) -> str:
    """A number as text: -1234.5 is −1,234.500; a dash where there is none."""
    return "–" if value is None else f"{value:z,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
