"""Cells of tables that hold a measured number are kept in one line."""

import re
from typing import Any

NUMBER = re.compile(r"<td>(?=[+−-]?\d[^<]*(?:±|\[))")


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with the cells marked that hold a mean with its deviation, or an interval."""
    return NUMBER.sub('<td class="number">', html)
