"""The findings of a tree of results, as a part of its page: Markdown whose numbers `basisbench findings` keeps true."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError
from basisbench.results.frame import PathLike

if TYPE_CHECKING:
    from markdown_it.token import Token

NAME = "FINDINGS.md"

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#|/", re.IGNORECASE)


def findings_html(results: PathLike | Sequence[PathLike], out: Path) -> str:
    """Return the findings that lie in one of the given folders as HTML; "" where there are none.

    HTML of the text itself is shown as text, and links that Markdown's rules call unsafe are none.

    Args:
        results: what the page is made of.
        out: folder of the page, from which links to files beside the text are seen.

    Raises:
        BasisBenchError: the text cannot be read.
    """
    folders = [results] if isinstance(results, str | os.PathLike) else list(results)
    files = [Path(folder) / NAME for folder in folders if (Path(folder) / NAME).is_file()]
    if not files:
        return ""
    file = files[0]
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BasisBenchError(f"{file}: cannot be read as UTF-8 text") from error
    return _rendered(_COMMENT.sub("", text), file.parent, out)


def _rendered(text: str, beside: Path, out: Path) -> str:
    from markdown_it import MarkdownIt

    def tables_that_scroll(_renderer: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
        opened = '<div class="scroll" role="region" aria-label="Table, scrolls sideways" tabindex="0"><table>'
        return opened if tokens[index].nesting > 0 else "</table></div>\n"

    def links(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        target = str(tokens[index].attrs.get("href", ""))
        if not _ELSEWHERE.match(target):
            # Symbolic links are followed on both sides, as whoever opens the page does.
            tokens[index].attrs["href"] = Path(os.path.relpath((beside / target).resolve(), out.resolve())).as_posix()
        tokens[index].attrs["rel"] = "noopener noreferrer"
        return str(renderer.renderToken(tokens, index, options, env))

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.add_render_rule("table_open", tables_that_scroll)
    parser.add_render_rule("table_close", tables_that_scroll)
    parser.add_render_rule("link_open", links)
    # The page has a first heading of its own: the text's are one level lower.
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
    return str(parser.renderer.render(tokens, parser.options, {}))
