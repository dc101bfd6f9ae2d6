"""Describes an artifact in words, for `poolrt inspect`."""

from __future__ import annotations

from collections.abc import Iterator

from ..artifact.images import Images
from ..artifact.manifest import Evidence, Head, Manifest, Reading, Role
from ..artifact.reading import Artifact
from ..engines import table
from ..errors import InputError
from ..inputs import templates


def text(opened: Artifact) -> str:
    """Returns the manifest in lines: tasks, text, engines, and how far the numbers are from PyTorch's."""
    return "\n".join(_lines(opened.manifest))


def _lines(manifest: Manifest) -> Iterator[str]:
    size = sum(file.size for file in manifest.files.values())
    source = "/".join(filter(None, (manifest.source.checkpoint, manifest.source.subfolder)))
    source += f" @ {manifest.source.revision}" if manifest.source.revision else ""
    adapter = (
        f" with the LoRA adapter {manifest.source.adapter.name}"
        if manifest.source.adapter is not None
        else ""
    )
    yield f"{manifest.name}: {manifest.architecture}, from {source}{adapter}"
    yield (
        f"  {len(manifest.files)} files, {size / 1e6:.1f} MB, all as "
        f"exported{f' {manifest.created}' if manifest.created else ''}"
    )
    if manifest.versions:
        yield f"  made with {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}"
    for key, value in manifest.source.overrides.items():
        yield f"  asked for at export: {key} = {value}"
    yield "tasks"
    for task in manifest.tasks:
        yield f"  {task}: {_head(manifest.heads[task])}"
    yield f"  score, rerank: {manifest.scoring or 'no'}"
    yield "text"
    preparation = manifest.text
    yield (
        f"  up to {preparation.max_tokens} tokens, {preparation.vocab_size} in the "
        f"vocabulary{', lower-cased' if preparation.lowercase else ''}"
    )
    for name, role in preparation.roles.items():
        yield f"  {name}: {_role(role)}"
    for name, prompt in preparation.prompts.items():
        yield f"  prompt {name!r}: {prompt!r}"
    for kind, file in (("chat", preparation.chat_template), ("score", preparation.score_template)):
        if file:
            yield f"  {kind} template: {file}"
    if manifest.images is not None:
        yield "pictures"
        yield from _pictures(manifest.images)
    yield "engines"
    for graph in manifest.graphs:
        role = "" if manifest.images is None else f"{graph.role}, "
        stored = "" if graph.weights is None else f" from {graph.weights} weights"
        yield f"  onnxruntime:{graph.file}  {role}{graph.precision}{stored}, opset {graph.opset}"
    for engine in manifest.engines:
        shapes = ", ".join(
            f"{profile.largest[0]}x{profile.largest[1]}"
            for profile in engine.profiles
            if not profile.returns_past
        )
        behind = f", prefixes of up to {engine.past}" if engine.past else ""
        misfit = table.unfit(engine)
        yield (
            f"  {engine.file}  {engine.backend} {engine.version}, {engine.device}, "
            f"{engine.precision}, up to {shapes}{behind}"
        )
        yield f"    {'runs here' if misfit is None else f'does not run here: {misfit}'}"
    if manifest.reading is not None:
        yield "reading (PyTorch against the checkpoint's own library)"
        yield f"  {reading(manifest.reading)}"
    if manifest.evidence:
        yield "evidence (against PyTorch)"
        yield from map(_evidence, manifest.evidence)


def reading(record: Reading) -> str:
    """Returns how our reading compares with the checkpoint's own library, in one line: `agrees with
    sentence-transformers 6.2.0 SentenceTransformer: ...`."""
    parts = []
    for agreement in record.agreements:
        worst = agreement.worst_cosine, agreement.worst_difference
        measured = (
            f", cosine at least {worst[0]:.7f}"
            if worst[0] is not None
            else f", at most {worst[1]:.1e} apart"
            if worst[1]
            else ""
        )
        parts.append(f"{agreement.what} of {agreement.texts} texts{measured}")
    if record.reference.startswith("own reading only"):
        same = f"; the same: {', '.join(parts)}" if parts else ""
        return f"{record.reference}: {record.why}{same}"
    twin = ", on a shrunken twin of the checkpoint" if record.twin else ""
    why = f" ({record.why})" if record.why else ""
    return f"agrees with {record.reference}{twin}: {'; '.join(parts)}{why}"


def _head(head: Head) -> str:
    parts = [f"{head.pool} pooling", f"{head.dim} {'labels' if head.labels else 'wide'}", head.activation]
    if head.labels:
        shown = ", ".join(head.labels[:6]) + (", ..." if len(head.labels) > 6 else "")
        parts.append(f"({shown})")
    if head.matryoshka or head.any_dimension:
        parts.append(f"dimensions {'any' if head.any_dimension else ', '.join(map(str, head.matryoshka))}")
    return ", ".join(parts)


def _pictures(images: Images) -> Iterator[str]:
    if images.scheme == "patches" and images.patches is not None:
        patches = images.patches
        side = patches.size * patches.merge
        least, most = (-(-pixels // side**2) for pixels in (patches.min_pixels, patches.max_pixels))
        size = f"patches of {patches.size} x {patches.size} pixels, {least} to {most} tokens a picture"
    elif images.scheme == "tiles":
        size = f"tiles of {images.width} x {images.height} pixels, {images.tokens} tokens each"
    else:
        cut = "the middle of it" if images.shortest_edge else "squashed"
        tokens = "" if images.apart else f", {images.tokens} tokens"
        size = f"{images.width} x {images.height} pixels, {cut}{tokens}"
    yield f"  {images.scheme}: {size}; {images.resample} as {images.kernel} resizes"
    if images.apart:
        yield "  embedded apart: a prompt is a picture or text, not both"
    else:
        most = "" if images.most is None else f", up to {images.most} of a prompt"
        yield f"  in a prompt: {images.placeholder}{most}"
    if (videos := images.videos) is not None:
        single = "" if videos.frame_pixels is None else f"{videos.frame_pixels} pixels each, "
        size = f"up to {single}{videos.max_pixels} together"
        if images.scheme == "tiles":
            size = f"{images.width} x {images.height} pixels, {images.tokens} tokens each"
        yield (
            f"  videos: {videos.fps:g} frames a second, {videos.min_frames} to {videos.max_frames}, {size}; "
            f"in a prompt: {videos.placeholder}"
        )


def _role(role: Role) -> str:
    parts = []
    if role.template is not None:
        parts.append(_template(role.template))
    if role.suffix:
        parts.append(f"suffix {role.suffix!r}")
    if role.prefix:
        parts.append(f"prefix {role.prefix!r}")
    if role.marker_id is not None:
        parts.append(f"marker {role.marker_id}")
    if role.max_tokens is not None:
        parts.append(f"cut to {role.max_tokens} tokens")
    if role.expand_id is not None:
        parts.append(f"filled up with {role.expand_id}{', attended' if role.attend_expansion else ''}")
    if role.static:
        parts.append("weights of its words, without the model")
    if role.skip_ids:
        parts.append(f"{len(role.skip_ids)} ids skipped")
    return ", ".join(parts) or "plain"


def _template(template: str) -> str:
    """What the template of a role writes for a text alone, and for a picture with a text."""
    values = {"text": "{text}", "media": "", "images": 0, "videos": 0, "instruction": "{instruction}"}
    try:
        alone = templates.render(template, values)
        pictured = templates.render(template, {**values, "media": "{picture}", "images": 1})
    except InputError:  # it reads more than these
        return "template"
    if pictured.replace("{picture}", "") == alone:
        return f"template {pictured!r}"
    return f"template {alone!r}, or {pictured!r}"


def _evidence(evidence: Evidence) -> str:
    numbers = []
    if evidence.worst_cosine is not None:
        numbers.append(f"worst cosine {evidence.worst_cosine:.7f}")
    if evidence.worst_difference is not None:
        numbers.append(f"worst difference {evidence.worst_difference:.1e}")
    if evidence.rank_agreement is not None:
        numbers.append(f"rank agreement {evidence.rank_agreement:.3f}")
    return (
        f"  {evidence.engine}  {evidence.task}, {evidence.shape}: {', '.join(numbers)} ({evidence.texts} "
        f"texts, allowed {evidence.tolerance})"
    )
