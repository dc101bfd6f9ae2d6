"""Recipes: TOML data about published models that their files do not say, and their authors' numbers.

A recipe is chosen by hub id, or by a folder named like the repository. It holds no code, and the user's
options override it.
"""

from __future__ import annotations

import fnmatch
import functools
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from ...runtime.artifact.manifest import Role
from ...runtime.artifact.records import RecordError, from_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScores:
    """Numbers that somebody else published for this model."""

    task: Literal["similarity", "rerank", "maxsim"]
    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...]
    tolerance: float
    relative: bool = False
    """Whether `tolerance` is a share of the score."""
    source: str
    """Where the numbers were published, and how they were computed."""
    pictures: str = ""
    """Address of a folder of pictures, whose file names `documents` are; empty: they are texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelBudget:
    """What pictures and videos are scaled to and how videos are sampled, where the authors' code sets other
    bounds than their files."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    video_max_pixels: int | None = None
    """Of all frames together."""
    frame_max_pixels: int | None = None
    """Of one frame of a video."""
    fps: float | None = None
    """Frames of a video that are read for each second of it."""
    max_frames: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One file of recipes/."""

    name: str
    match: tuple[str, ...]
    """Hub ids; `*` stands for any characters."""
    summary: str
    task: Literal["embed", "rerank", "late-interaction", "classify", "token-classify", "reward", "sparse"]
    licence: str | None = None
    parameters: int | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    hf_overrides: dict[str, object] = field(default_factory=dict)
    convert: Literal["embed", "classify"] | None = None
    pooler_config: dict[str, object] = field(default_factory=dict)
    norm_before_cut: bool = False
    """Whether a LayerNorm without weights runs before vectors are cut to the requested dimensions."""
    roles: dict[str, Role] = field(default_factory=dict)
    """Replace the files' roles `query` and `document`."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Added to the files' prompts."""
    role_template: str | None = None
    """File in recipes/templates: the template of both roles."""
    role_templates: dict[str, str] = field(default_factory=dict)
    """Role -> file in recipes/templates, where the roles differ."""
    instruction: str = ""
    """The `instruction` of role templates where a request gives none; empty: the family's."""
    score_template: str | None = None
    """File in recipes/templates."""
    pixels: PixelBudget | None = None
    """None: the bounds of the files."""
    references: tuple[PublishedScores, ...] = ()

    def sides(self) -> dict[str, Role]:
        """The roles that replace those of the files."""
        files = dict.fromkeys(("query", "document"), self.role_template) | self.role_templates
        written = {role: Role(template=template(file)) for role, file in files.items() if file is not None}
        return {**written, **self.roles}


TASKS: dict[str, tuple[str, ...]] = {
    "embed": ("embed", "token_embed", "score"),
    "sparse": ("embed", "token_embed", "score"),
    "late-interaction": ("token_embed", "score", "rerank"),
    "rerank": ("classify", "token_classify", "score", "rerank"),
    "classify": ("classify", "token_classify"),
    "token-classify": ("token_classify",),
    "reward": ("token_classify", "reward"),
}
"""Kind of recipe -> tasks that such an artifact usually has. The checkpoint's files decide them."""


@functools.cache
def all_recipes() -> tuple[Recipe, ...]:
    """Every recipe of this package, by name. A broken file is our own mistake and raises AssertionError."""
    recipes: list[Recipe] = []
    for entry in resources.files("poolrt.recipes").iterdir():
        if entry.name.endswith(".toml"):
            try:
                recipes.append(from_plain(Recipe, tomllib.loads(entry.read_text(encoding="utf-8"))))
            except (RecordError, tomllib.TOMLDecodeError) as error:
                raise AssertionError(f"recipes/{entry.name}: {error}") from error
    return tuple(sorted(recipes, key=lambda recipe: recipe.name))


def find(source: str) -> Recipe | None:
    """The recipe for a hub id (`BAAI/bge-m3`) or a folder's name (`bge-m3`); case does not matter."""
    name = source.lower()
    for recipe in all_recipes():
        patterns = [pattern.lower() for pattern in recipe.match]
        if "/" not in name:
            patterns = [pattern.rsplit("/", 1)[-1] for pattern in patterns]
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return recipe
    return None


def template(name: str) -> str:
    """The text of a file in recipes/templates."""
    return (resources.files("poolrt.recipes") / "templates" / name).read_text(encoding="utf-8")
