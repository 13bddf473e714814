"""Formulas become MathML when the site is built, which browsers lay out without a script."""

import re
from html import unescape
from typing import Any

from math_core import LatexToMathML

LONG = 50  # characters of TeX, which may be wider than the screen of a phone
CONVERTER = LatexToMathML()
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>([,.;:)]*)', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with its formulas converted; one that cannot be read ends the build."""

    def converted(match: re.Match[str]) -> str:
        formula, block = unescape(match[3]).strip(), match[2] == "["
        mathml = CONVERTER.convert_with_local_state(formula, displaystyle=block)
        if block:
            return f'<div class="formula">{mathml}</div>'
        kind = "together long" if len(formula) > LONG else "together"
        return f'<span class="{kind}">{mathml}{match[4]}</span>'  # no line begins with the comma after a formula

    return FORMULA.sub(converted, html)
