"""A hook of mkdocs: pages link to files outside docs/, such as ../CONTRIBUTING.md, and the site has
copies of them. README.md is its page readme.md, because mkdocs takes that name for an index."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx import slugs

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r'(\]\(|\bsrc=")([^)"#\s:]+)')  # in a page's text, without the anchor
# Pages that the navigation has.
ABOUT = ("README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that GitHub gives them."""
    config.mdx_configs["toc"]["slugify"] = slugs.slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of ABOUT, and every file outside docs/ that a page links to."""
    pages = [DOCS / file.src_uri for file in files.documentation_pages()]
    paths = {ROOT / name for name in ABOUT}
    for page in [*pages, *paths]:
        paths |= {path for path in links(page) if path.is_file() and DOCS not in path.parents}
    for path in sorted(paths):
        files.append(File.generated(config, uri_of(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page with its links as the site has their files."""
    folder, here = Path(page.file.abs_src_path).parent, posixpath.dirname(page.file.src_uri)

    def renamed(match: re.Match) -> str:
        path = (folder / match[2]).resolve()
        return (
            match[1] + posixpath.relpath(uri_of(path), here or ".") if path.exists() else match[0]
        )

    return LINK.sub(renamed, markdown)


def links(page: Path) -> list[Path]:
    """Return the files that a page links to."""
    return [(page.parent / match[2]).resolve() for match in LINK.finditer(page.read_text())]


def uri_of(path: Path) -> str:
    """Return where the site has a file of the repository."""
    folder = DOCS if DOCS in path.parents else ROOT
    name = path.relative_to(folder).as_posix()
    return "readme.md" if name == "README.md" else name
