"""Which tests stand nearest to a source file: by name, and where names do not tell, by the table."""

from __future__ import annotations

from pathlib import Path

AREAS = ("runtime", "exporter", "serve")
RUNTIME = {
    "test_artifact": ("artifact", "records", "onnx_references", "manifest"),
    "test_batching test_worker": ("batching", "calls", "worker"),
    "test_commands": ("cli", "commands", "description", "diagnosis", "machine", "benchmark", "forms"),
    "test_foreign": ("foreign",),
    "test_lora": ("lora",),
    "test_pairs": ("pairs",),
    "test_roles": ("roles",),
    "test_scoring": ("scoring", "comparison", "tasks"),
    "test_templates": ("templates", "content"),
    "test_text test_truncation test_pairs": ("text", "truncation", "prompts", "tokenizer"),
    "test_worker test_model": ("pending", "backends/ort", "backends/__init__"),
    "test_cuda_graphs test_trt_session": ("backends/cuda_graphs", "backends/trt"),
    "test_plugins": ("plugins/bge_m3", "plugins/colbert", "plugins/facts", "plugins/finding", "plugins/parts", "plugins/plugin"),
    "test_model": (
        "model", "llm", "outputs", "params", "tasks", "chunks", "comparison", "forms", "lora", "machine", "manifest", "errors",
    ),
}  # fmt: skip
SERVE = {
    "test_access": ("gate", "app", "headers", "settings"),
    "test_certificates": ("certificates", "server"),
    "test_cli": ("cli", "flags", "opening", "settings", "server", "lifespan", "adapters"),
    "test_errors test_kinds test_goldens": ("body", "errors", "kinds", "problems", "schemas", "reading", "registry", "prompts"),
    "test_embeddings test_scoring test_goldens": (
        "answers", "context", "endpoints/classify", "endpoints/cohere", "endpoints/embeddings", "endpoints/invocations",
        "endpoints/pooling", "endpoints/score", "endpoints/tokens",
    ),
    "test_lora": ("adapters", "loading", "endpoints/lora"),
    "test_logs": ("logs", "context"),
    "test_middleware": ("middleware",),
    "test_numbers": ("numbers",),
    "test_openapi": ("openapi", "docs", "app"),
    "test_operations": (
        "endpoints/operations", "gate", "lifespan", "metrics", "histogram", "protocol", "reading", "server", "state", "waiting",
        "work", "errors", "app", "headers", "registry",
    ),
    "test_playground": ("playground",),
    "test_plugins": ("endpoints/plugin", "endpoints/pooling", "answers"),
    "test_protocol": ("protocol",),
    "test_tei": ("endpoints/tei", "endpoints/tei_tokens", "schemas_tei", "answers", "errors"),
}  # fmt: skip
EXPORTER: dict[str, tuple[str, ...]] = {}
TABLE = {"runtime": RUNTIME, "serve": SERVE, "exporter": EXPORTER}


def nearest(root: Path, source: str) -> list[str]:
    """Test files for a source file, both relative to `root`, the nearest first: those of its own name, then those of the table."""
    area, _, rest = source.removesuffix(".py").partition("/")
    named = sorted(path.stem for path in (root / "tests" / area).glob(f"test_{Path(rest).stem.strip('_')}*.py"))
    listed = [test for tests, sources in TABLE[area].items() if rest in sources for test in tests.split()]
    return [f"tests/{area}/{stem}.py" for stem in dict.fromkeys([*named, *listed])]
