"""What mkdocs needs beside its plugins: MathML at build time, pictures of the benchmarks.

Nothing on a page is loaded from another site. Formulas are `$...$` and `$$...$$`; latex2mathml
turns them into MathML, which browsers draw themselves.
"""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PICTURES = "benchmarks/results"


class Formulas(Extension):
    """Formulas in a line, `$...$`, and in a paragraph of their own, `$$...$$`."""

    def extendMarkdown(self, md):
        """Code is already taken out when formulas are looked for: fences first, then spans."""
        md.preprocessors.register(DisplayFormulas(md), "display_formulas", 24)
        md.inlinePatterns.register(InlineFormulas(r"(?<![\\$])\$([^$\n]+?)\$", md), "formulas", 185)


class DisplayFormulas(Preprocessor):
    r"""A paragraph between two lines of `$$`; `\tag{1}` at its end is the number."""

    def run(self, lines):
        """Replaces each formula by MathML that Markdown leaves alone."""
        formula = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.MULTILINE | re.DOTALL)
        text = formula.sub(self._formula, "\n".join(lines))
        if "$$" in text:  # `$$x$$` in one line would stand on the page as it is
            left = text[text.index("$$") :].split("\n")[0]
            raise PluginError(f"formula: got {left!r}, expected $$ on lines of its own")
        return text.split("\n")

    def _formula(self, match):
        latex, number = re.fullmatch(r"(.*?)(?:\\tag\{(.*?)\})?\s*", match[1], re.S).groups()
        label = f'<span class="equation-number">({number})</span>' if number else ""
        html = f'<div class="equation">{convert(latex, display="block")}{label}</div>'
        return "\n" + self.md.htmlStash.store(html) + "\n"


class InlineFormulas(InlineProcessor):
    """A formula in a line."""

    def handleMatch(self, match, data):
        """Returns the formula as an element of MathML."""
        markup = convert(match[1]).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
        return ElementTree.fromstring(markup), match.start(0), match.end(0)


def on_config(config):
    """Adds the formulas to the extensions of Markdown."""
    config["markdown_extensions"].append(Formulas())
    return config


def on_files(files, config):
    """Adds the pictures of the benchmarks, which lie beside `docs/` and not in it."""
    for path in sorted((ROOT / PICTURES).glob("*.svg")):
        files.append(
            File(
                f"{PICTURES}/{path.name}",
                src_dir=str(ROOT),
                dest_dir=config["site_dir"],
                use_directory_urls=config["use_directory_urls"],
            )
        )
    return files


def on_page_markdown(markdown, page, config, files):
    """Lets links to pictures, written for readers of the repository, hold on the site too."""
    return markdown.replace(f"(../{PICTURES}/", f"({PICTURES}/")
