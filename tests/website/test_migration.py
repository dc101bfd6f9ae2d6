"""What the migration guides and the list of pages name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from poolrt.runtime import LLM, Model, PoolingParams
from poolrt.runtime import options as method_options
from poolrt.runtime.commands import cli
from poolrt.serve.endpoints.routes import ROUTES

ROOT = Path(__file__).parents[2]
GUIDES = sorted(path for path in (ROOT / "docs" / "migrate").glob("*.md") if path.name != "index.md")
ROW = re.compile(r"^\|(?P<theirs>[^|]+)\|(?P<ours>[^|]+)\|[^|]*\|$", re.MULTILINE)
OPTION = re.compile(r"with `(\w+)`")


def rows(guide: Path) -> list[tuple[str, str]]:
    text = guide.read_text(encoding="utf-8")
    return [(row["theirs"].strip(), row["ours"].strip()) for row in ROW.finditer(text)]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_what_a_guide_names_of_poolrt_exists(guide: Path):
    serve = next(command for command in cli.loaded() if command.name == "serve")
    flags = {f"--{value.name}": value for value in serve.values}
    routes = {route.path for route in ROUTES}
    seen = 0
    for theirs, ours in rows(guide):
        for word in re.findall(r"`([^`]+)`", ours):
            seen += 1
            name, _, value = word.partition(" ")
            if name.startswith("--"):
                assert name in flags, (theirs, word)
                if value:
                    flags[name].read(value)
            elif name.startswith("/"):
                assert name in routes, (theirs, word)
            elif match := re.fullmatch(r"(Model|LLM)\.(\w+)", name):
                assert hasattr({"Model": Model, "LLM": LLM}[match[1]], match[2]), (theirs, word)
        for option in OPTION.findall(ours):
            known = {*PoolingParams.__dataclass_fields__, *method_options.EmbedOptions.__annotations__,
                     *method_options.PromptOptions.__annotations__}  # fmt: skip
            assert option in known, (theirs, option)
    assert seen > 8


def test_every_page_of_the_folder_is_in_the_navigation_once():
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = re.findall(
        r"(\S+\.md)$", str(yaml.safe_dump(yaml.safe_load(text)["nav"], width=1000)), re.MULTILINE
    )
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    expected = {page.as_posix() for page in pages if page.parts[0] != "decisions"}
    assert sorted(listed) == sorted(set(listed))
    assert expected <= set(listed), "add the new page to nav in mkdocs.yml"
