"""`poolrt list | pull | push | rm | prune`: the artifacts of this user."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from ..command_line.command import command
from ..command_line.flags import Argument, Flag
from .artifact_names import artifact_names
from .model_arguments import ArtifactFolder, Json
from .printing import print_json

Dry = Annotated[bool, Flag("only say what would go", own=True)]


@command("list", extra="hub", examples=["poolrt list", "poolrt list --json"])
def list_artifacts(*, json: Json = False) -> None:
    """Lists the stored artifacts: tasks, precisions, sizes, where each came from, when it was used last."""
    from ..command_line.terminal import table
    from ..store import home
    from . import stored_artifacts as work

    artifacts, problems = work.rows()
    if json:
        print_json({"artifacts": [entry.plain() for entry in artifacts], "problems": problems})
        return
    if artifacts:
        table(work.table(artifacts), right=(3,))
    else:
        print(
            f"nothing is stored in {home.artifacts()}: poolrt pull HUB_ID_OR_URL brings an artifact, "
            "poolrt pull --export HUB_ID makes one of a checkpoint"
        )
    for problem in problems:
        print(problem, file=sys.stderr)


@command(
    extra="hub",
    examples=[
        "poolrt pull owner/name",
        "poolrt pull owner/name@v2",
        "poolrt pull hf://owner/name@v2/int8 --name small",
        "poolrt pull s3://bucket/models/all-MiniLM-L6-v2",
        "poolrt pull https://example.org/models/all-MiniLM-L6-v2",
        "poolrt pull sentence-transformers/all-MiniLM-L6-v2 --export --precision int8",
    ],
    notes="Every file is compared with the manifest's sha256. An interrupted attempt is gone on with.",
)
def pull(
    place: Annotated[
        str,
        Argument(
            "HUB_ID_OR_URL",
            "owner/name[@revision], hf://owner/name[@revision][/folder], https://, s3://, ..., a folder, or "
            "the name of a stored artifact",
            complete=artifact_names,
        ),
    ],
    *,
    name: Annotated[
        str | None, Flag("name in the store", own=True, default="the artifact's own, and @revision")
    ] = None,
    export: Annotated[bool, Flag("make an artifact of a checkpoint, and store that", own=True)] = False,
    precision: Annotated[
        str | None, Flag("of the artifact that --export makes: fp32, fp16, bf16, int8, auto, ...")
    ] = None,
    json: Json = False,
) -> None:
    """Stores an artifact, or brings a stored one up to date. A checkpoint is downloaded."""
    from . import stored_artifacts as work

    result = work.pulled(place, name=name, export=export, precision=precision)
    if json:
        print_json(result)
    elif result["kind"] == "checkpoint":
        print(
            f"{result['address']}: a checkpoint, in {result['folder']}; make an artifact of it with\n  "
            f"{result['next']}\nor, stored under its name: poolrt pull --export {place}"
        )
    elif result["new"]:
        print(f"{result['name']} is stored: {result['folder']}\ntry: poolrt serve {result['name']}")
    else:
        print(f"{result['name']} is up to date: {result['folder']}")


@command(
    extra="hub",
    examples=[
        "poolrt push all-MiniLM-L6-v2 owner/name",
        "poolrt push artifacts/all-MiniLM-L6-v2 s3://bucket/models/all-MiniLM-L6-v2",
        "poolrt push all-MiniLM-L6-v2 /mnt/share/all-MiniLM-L6-v2",
    ],
    notes="Nobody sees half an artifact: the hub takes one commit, and elsewhere the manifest comes last.",
)
def push(
    artifact: ArtifactFolder,
    target: Annotated[
        str,
        Argument("TARGET", "hub id, hf://owner/name[@branch][/folder], s3://bucket/folder, ..., or a folder"),
    ],
    *,
    private: Annotated[bool, Flag("a repository of the hub that is made now is private", own=True)] = False,
    json: Json = False,
) -> None:
    """Publishes an artifact, after every file was compared with its manifest."""
    from . import stored_artifacts as work

    result = work.pushed(artifact, target, private=private)
    if json:
        print_json(result)
    else:
        print(
            f"{result['name']} is at {result['address']}"
            + (f" ({result['commit']})" if result["commit"] else "")
        )


@command(extra="hub", examples=["poolrt rm all-MiniLM-L6-v2"])
def rm(
    names: Annotated[tuple[str, ...], Argument("NAME", "stored artifacts", complete=artifact_names)],
    *,
    json: Json = False,
) -> None:
    """Removes artifacts from the store."""
    from ..store.arriving import megabytes
    from . import stored_artifacts as work

    result = work.removed(names)
    if json:
        print_json(result)
    else:
        print(f"removed {', '.join(names)}: {megabytes(_bytes(result))} are free")


@command(extra="hub", examples=["poolrt prune --dry-run", "poolrt prune"])
def prune(*, dry_run: Dry = False, json: Json = False) -> None:
    """Removes what nobody needs: drafts of processes that died, partial downloads, caches of artifacts that
    are gone, exports and compiled graphs that were not used for 30 days."""
    from ..store.arriving import megabytes
    from . import stored_artifacts as work

    result: dict[str, Any] = work.pruned(dry_run=dry_run)
    if json:
        print_json(result)
        return
    for item in result["leftovers"]:
        print(f"{megabytes(item['bytes']):>10}  {item['path']}: {item['why']}")
    verb = "would be" if dry_run else "are"
    print(f"{megabytes(_bytes(result))} {verb} free" if result["leftovers"] else "nothing to remove")


def _bytes(result: dict[str, Any]) -> int:
    return result["bytes"]
