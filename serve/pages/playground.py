"""The page at `/`: try a model in a browser, see the code of every request it makes.

`/playground.json` describes to it what each model can do.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Head, Role, TextPreparation
from ..context import context_of
from ..models.registry import Served
from ..prompts import stored_prompt
from . import pdf
from .assembly import assembled
from .evidence import evidence_facts

PLAYGROUND = assembled("playground.html")
PAGE, HEADERS = PLAYGROUND.content, PLAYGROUND.headers
page = PLAYGROUND.respond


async def facts(request: Request) -> Response:
    """What the page needs of each model: its tasks, widths and labels, and how a text becomes rows of
    vectors."""
    context = context_of(request)
    context.opened()
    content = {
        "keyed": bool(context.settings.api_keys),
        "docs": context.settings.docs,
        "pdf": pdf.is_installed(),
        "models": [model(served) for served in context.registry],
    }
    return Response(
        orjson.dumps(content), headers={"Cache-Control": "no-store"}, media_type="application/json"
    )


def model(served: Served) -> dict[str, Any]:
    manifest = served.manifest
    return {
        "id": served.name,
        "architecture": manifest.architecture,
        "tasks": list(served.model.tasks),
        "scoring": manifest.scoring,
        "max_tokens": manifest.text.max_tokens,
        "images": None if manifest.images is None else image_facts(manifest.images, manifest.text),
        "roles": roles(manifest.text),
        "truncation_side": manifest.text.truncation_side,
        "evidence": evidence_facts(served),
        "heads": {task: head_facts(head) for task, head in manifest.heads.items()},
    }


def image_facts(images: Images, text: TextPreparation) -> dict[str, Any]:
    """How the page asks a model that reads pictures: `sides` are the values of `input_type` that it knows."""
    return {
        "scheme": images.scheme,
        "apart": images.apart,
        "chat": text.chat_template is not None,
        "sides": list(text.roles),
    }


def roles(text: TextPreparation) -> dict[str, Any] | None:
    """How each `input_type` changes a text; None where none changes anything."""
    by_name = {}
    for name in ("query", "document"):
        prompt = stored_prompt(text, name)
        by_name[name] = role_facts(
            text.roles.get(name) or Role(prefix=text.prompts[prompt] if prompt else "")
        )
    return by_name if any(facts != role_facts(Role()) for facts in by_name.values()) else None


def role_facts(role: Role) -> dict[str, Any]:
    return {
        "prefix": role.prefix,
        "marker_id": role.marker_id,
        "max_tokens": role.max_tokens,
        "expand_id": role.expand_id,
        "skip_ids": list(role.skip_ids),
    }


def head_facts(head: Head) -> dict[str, Any]:
    return {
        "dim": head.dim,
        "labels": list(head.labels),
        "matryoshka": list(head.matryoshka),
        "drop_first": head.drop_first,
        "drop_last": head.drop_last,
        "drop_first_id": head.drop_first_id,
        "drop_last_id": head.drop_last_id,
    }
