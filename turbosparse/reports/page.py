"""A report as one HTML file: plots inside, no script, no network, all text escaped."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Notes:
    """A list of remarks."""

    kind: ClassVar[str] = "notes"
    notes: Sequence[str]


@dataclass(frozen=True)
class Figures:
    """A few figures that matter most, by name."""

    kind: ClassVar[str] = "figures"
    figures: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table; rows that begin with `paper` look apart."""

    kind: ClassVar[str] = "table"
    header: Sequence[object]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG, carried inside the page."""

    kind: ClassVar[str] = "picture"
    png: bytes
    caption: str

    @property
    def base64(self) -> str:
        """Returns the bytes as a data URI has them."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Links:
    """Files that lie beside the page, by what they are called."""

    kind: ClassVar[str] = "links"
    links: Mapping[str, str]


Block = Text | Notes | Figures | Table | Picture | Links


@dataclass(frozen=True)
class Section:
    """A part of the page, which its beginning links to."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Returns the title as part of a link."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str
    sections: Sequence[Section]


def write_page(page: Page, path: Path) -> None:
    """Writes the page as HTML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(page), encoding="utf-8")


def render_page(page: Page) -> str:
    """Returns the page as HTML."""
    environment = Environment(
        loader=PackageLoader("turbosparse.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=page)
