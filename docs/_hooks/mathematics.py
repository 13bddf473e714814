"""Formulas become MathML when the site is built, which browsers lay out without a script."""

import re
from html import unescape
from typing import Any

from math_core import LatexToMathML

CONVERTER = LatexToMathML()
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>([,.;:)]*)', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Convert the formulas of a page; one that cannot be read ends the build."""

    def converted(match: re.Match[str]) -> str:
        block = match[2] == "["
        mathml = CONVERTER.convert_with_local_state(unescape(match[3]).strip(), displaystyle=block)
        if block:
            return f'<div class="formula">{mathml}</div>'
        return f'<span class="together">{mathml}{match[4]}</span>' if match[4] else mathml

    return FORMULA.sub(converted, html)
