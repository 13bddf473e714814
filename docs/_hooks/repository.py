"""Pages link to files of the repository outside of `docs`; the site has a copy of each that is linked to.

A Markdown file becomes a page, source code a page that shows it, a folder a list of its files, anything else is copied.
All of them lie under `repository/`, as in the repository, so that links among them hold.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()((?!\w+:|#)[^)\s#]+)(?=[)#])")
CODE = {".py": "python", ".sh": "bash", ".toml": "toml"}


def outside(markdown: str, folder: Path) -> Iterator[Path]:
    """Yield the files and folders outside of `docs` that a page in a folder links to."""
    for _, target in LINK.findall(markdown):
        path = (folder / target).resolve()
        if path.exists() and path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs"):
            yield path


def place(path: Path) -> str:
    """Return where a file or folder of the repository lies in the site."""
    if path == ROOT / "README.md":
        return "index.md"
    name = f"repository/{path.relative_to(ROOT).as_posix()}"
    return f"{name}/index.md" if path.is_dir() else f"{name}.md" if path.suffix in CODE else name


def text(path: Path) -> str:
    """Return the page that shows a file or folder."""
    if path.is_dir():
        shown = [one for one in path.iterdir() if one.suffix in CODE or (one.is_dir() and any(one.glob("*.py")))]
        return f"# {path.name}\n\n" + "".join(f"- [{one.name}]({one.name})\n" for one in sorted(shown))
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return content
    fence = "~" * 8
    title = path.relative_to(ROOT).as_posix()
    return f"---\nsearch: {{exclude: true}}\n---\n# {title}\n\n{fence}{CODE[path.suffix]}\n{content}{fence}\n"


def origin(src_uri: str) -> Path:
    """Return the folder in the repository of what a page was made from."""
    if not src_uri.startswith("repository/"):
        return (ROOT / "docs" / src_uri).parent
    path = ROOT / src_uri.removeprefix("repository/")
    return path.parent  # of DIRECTORY/index.md it is the directory


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site, with all that is linked to and what that links to."""
    waiting = [(file.content_string, origin(file.src_uri)) for file in files.documentation_pages()]
    while waiting:
        for path in outside(*waiting.pop()):
            uri = place(path)
            if uri in files.src_uris:
                continue
            if path.is_dir() or path.suffix in {".md", *CODE}:
                files.append(File.generated(config, uri, content=text(path)))
                waiting.append((text(path), path if path.is_dir() else path.parent))
            else:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Return the page with links to these copies."""
    folder = origin(page.file.src_uri)
    here = Path(page.file.src_uri).parent

    def moved(match: re.Match[str]) -> str:
        path = (folder / match[2]).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]
        docs = path.is_relative_to(ROOT / "docs")
        if docs and (not path.is_dir() or not (path / "index.md").is_file()) and folder.is_relative_to(ROOT / "docs"):
            return match[0]
        uri = path.relative_to(ROOT / "docs").as_posix() if docs else place(path)
        if docs and path.is_dir():
            uri += "/index.md"
        return match[1] + Path(os.path.relpath(uri, here)).as_posix()

    return LINK.sub(moved, markdown)
