"""A line `--help: COMMAND` in a page becomes what the command says, when the site is built."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

SRC = Path(__file__).parents[2] / "src"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with the help of each command in its place."""

    def shown(match: re.Match[str]) -> str:
        environment = {**os.environ, "PYTHONPATH": str(SRC), "COLUMNS": "100"}
        command = [sys.executable, "-m", "sharpless", match[1], "--help"]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return f"```text\n{answer.stdout}```"

    return re.sub(r"^--help: (\w+)$", shown, markdown, flags=re.MULTILINE)
