"""Which tests stand nearest to a source file: by name, and where names do not tell, by the table."""

from __future__ import annotations

import re
from pathlib import Path

AREAS = ("runtime", "exporter", "serve")
RUNTIME = {
    "test_artifact": ("artifact/reading", "artifact/records", "artifact/onnx_references",
    "artifact/manifest"),
    "test_batching test_worker": ("batching/plan", "batching/held", "batching/line", "batching/queue",
    "batching/worker"),
    "serve/test_numbers serve/test_tei": ("answers/sparse",),
    "test_machine test_commands": ("commands/doctor",),
    "test_commands": ("commands/cli", "commands/model_commands", "commands/model_arguments",
    "commands/classify_command", "commands/printing", "commands/inspection",
    "machine", "commands/benchmark", "extras", "commands/vector_file"),
    "test_command_line": ("command_line/command", "command_line/config_file", "command_line/flags",
    "command_line/help", "command_line/parameters", "command_line/spelling", "command_line/terminal",
    "command_line/values"),
    "test_feed test_worker": ("engines/feed",),
    "test_pulling": ("store/addresses", "store/arriving", "store/bucket_checkpoint", "store/buckets",
    "store/hub", "store/locking", "store/pulling", "store/pushing", "store/sources"),
    "test_store": ("store/home", "store/pruning", "store/resolving", "store/stored"),
    "test_pulling exporter/test_artifact_writer": ("store/placing",),
    "test_store_commands": ("commands/store_commands", "commands/stored_artifacts"),
    "test_growth": ("inputs/tokenizer_file",),
    "test_qwen2_videos": ("inputs/media/video", "inputs/media/medium"),
    "test_media test_media_goldens test_media_hostile": (
        "inputs/media/decode", "inputs/media/fixed", "inputs/media/limits",
        "inputs/media/medium", "inputs/media/normalise", "inputs/media/options", "inputs/media/patches",
        "inputs/media/prepared", "inputs/media/rows", "inputs/media/tiles", "inputs/media/video",
        "inputs/media/video_file", "inputs/media/video_source", "inputs/multimodal/positions",
    ),
    "test_tilings": ("inputs/media/cuts", "inputs/tilings/cut", "inputs/tilings/grids"),
    "test_tilings exporter/test_llava_next": ("inputs/tilings/anyres",),
    "test_tilings exporter/test_phi3_v": ("inputs/tilings/hd",),
    "test_media_resize test_media_goldens": ("inputs/media/native", "inputs/media/resize"),
    "test_pictures": (
        "inputs/multimodal/content_parts", "inputs/multimodal/contents", "inputs/multimodal/conversations",
        "inputs/multimodal/fitting", "inputs/multimodal/given_features", "inputs/multimodal/media_pairs",
        "inputs/multimodal/media_reading", "inputs/multimodal/placeholders",
        "inputs/multimodal/preparation", "inputs/multimodal/prompt_forms",
    ),
    "test_vision_stage": ("batching/row_cache", "batching/stages"),
    "test_llm": ("artifact/checkpoints", "artifact/overrides", "artifact/spellings", "vllm/pooler_config"),
    "test_overrides": ("vllm/llm", "vllm/pooler_config"),
    "exporter/test_choices exporter/test_vllm_names": ("vllm/pooler_config",),
    "test_foreign": ("inputs/foreign_tokens",),
    "test_lora": ("vllm/lora", "answers/lora_request"),
    "test_pairs": ("inputs/pairs",),
    "test_preparation test_pairs": ("inputs/encoder", "inputs/items", "inputs/special_tokens"),
    "test_params": ("progress", "inputs/prompts", "inputs/tokenization"),
    "test_saturated_scores": ("answers/pair_scores",),
    "test_comparison": ("answers/pair_scores", "answers/score_request"),
    "test_scoring": ("answers/scoring",),
    "test_tasks": ("inputs/chunks", "outputs"),
    "test_templates": ("inputs/templates", "inputs/template_content"),
    "test_preparation": ("inputs/prompts",),
    "test_preparation test_truncation test_pairs": ("inputs/truncation", "inputs/library_tokenizer"),
    "test_pending test_worker": ("batching/pending", "cancellation"),
    "test_cuda_graphs test_trt_session test_trt_prefixes": ("engines/cuda_graphs", "engines/cuda",
    "engines/trt", "engines/trt_library", "engines/trt_buffers"),
    "test_plugins": ("plugins/bge_m3", "plugins/colbert", "plugins/model_facts", "plugins/finding",
    "plugins/request_fields",
    "plugins/plugin"),
    "test_model test_params test_pending": ("intake",),
    "test_model": ("model", "vllm/llm", "loader", "statistics", "errors", "engines/ort", "engines/table"),
}  # fmt: skip
SERVE = {
    "test_access": ("http/access", "app", "headers", "settings"),
    "test_addresses test_fetching": ("media/urls",),
    "test_sources": ("media/allowance", "media/data_urls", "media/local_files"),
    "test_pictures": (
        "media/attaching", "media/io_kwargs", "media/prepared_bytes", "media/preparing", "media/reading",
        "metrics/media",
    ),
    "test_logs": ("context", "json_logs"),
    "test_artifacts": ("models/artifact_loading", "models/watching", "process/argument_places",
    "schema/artifacts"),
    "test_waiting_room": ("process/waiting_room", "process/progress"),
    "test_processes": ("process/supervisor", "process/worker", "process/placement", "process/signals"),
    "test_changing": ("process/changing", "models/changes", "models/shared_loading"),
    "test_certificates": ("process/certificates", "process/server"),
    "test_command_lines": ("settings", "process/options"),
    "test_cli": ("cli", "lifespan", "process/listening", "process/startup", "process/positionals",
    "process/exporting", "process/server", "process/options", "settings"),
    "test_clock test_connections": ("http/connections", "http/write_gathering"),
    "test_clock test_limits": ("http/memory_budget",),
    "test_errors": ("errors", "schema/validation", "schema/validation_errors", "http/request_body"),
    "test_embeddings test_goldens": (
        "context", "endpoints/classify", "endpoints/cohere", "endpoints/embeddings", "endpoints/invocations",
        "endpoints/pooling",
        "endpoints/tokens",
    ),
    "test_validation test_errors test_goldens": ("schema/body", "schema/vllm", "prompts"),
    "test_lora": ("models/adapters", "models/adapter_loading", "process/startup", "endpoints/lora"),
    "test_numbers test_embeddings": ("responses",),
    "test_batches": (
        "batches/asking", "batches/lines", "batches/records", "batches/running", "batches/store",
        "endpoints/batches/files", "endpoints/batches/multipart", "schema/batch",
    ),
    "test_pdf": ("pages/pdf_drawing",),
    "test_heat_map": ("pages/playground_routes", "schema/playground"),
    "test_openapi": ("pages/openapi", "pages/groups", "pages/reference", "app"),
    "test_errors test_tei": ("models/abilities",),
    "test_openapi test_plain_words test_registry test_stays": ("endpoints/route", "endpoints/routes"),
    "test_operations": (
        "endpoints/operations", "http/access", "lifespan", "metrics/prometheus", "http/protocol",
        "http/parting", "http/request_body", "process/server", "metrics/state",
        "http/futures", "execution", "app",
        "headers",
    ),
    "test_connections": ("http/protocol",),
    "test_limits": ("lifespan", "logs", "http/request_body", "process/memory_trimming", "http/futures",
    "execution"),
    "test_problems": ("schema/validation",),
    "test_prompts": ("endpoints/cohere",),
    "test_protocol": ("http/write_gathering",),
    "test_fairness": ("metrics/prometheus", "http/protocol", "process/memory_trimming", "http/futures"),
    "test_histogram": ("metrics/histogram", "metrics/prometheus"),
    "test_plugins": ("responses", "endpoints/plugin", "endpoints/pooling"),
    "test_scoring test_goldens": ("endpoints/score",),
    "test_tei": ("endpoints/tei", "endpoints/tei_tokens", "endpoints/tei_wire", "schema/tei", "responses",
    "errors"),
}  # fmt: skip
EXPORTER = {
    "integrations/test_triton": ("triton/client", "triton/client_files", "triton/command", "triton/config",
    "triton/page", "triton/python_model", "triton/repository", "triton/served_graph"),
    "test_artifact_writer": ("base/artifact",),
    "test_cli": ("base/quiet", "base/terminal"),
    "test_tokenizer test_decoders": ("files/tokenizer_changes",),
    "test_checkpoint test_odd_checkpoints": ("files/config_json",),
    "test_checkpoint": ("checkpoint", "detection", "files/checkpoint_files", "base/guess", "heads/planning",
    "heads/layers", "files/source"),
    "test_choices": ("heads/precedence", "heads/text_plan"),
    "test_layers": ("heads/texts/colbert", "heads/yes_no"),
    "test_decoder_rerankers": ("heads/yes_no", "heads/embedding", "heads/classification"),
    "test_encoders_native": ("families/_transformers",),
    "test_decoders": ("families/embedding_gemma2", "families/gemma", "families/gemma2", "families/gemma3",
                      "families/llama", "families/mistral", "families/qwen2", "families/qwen3",
                      "families/jina_flash", "families/registry", "families/modules/adapters",
                      "families/_decoders", "families/gritlm", "families/internlm2",
                      "families/jina_reranker_v3", "families/jina_v5", "families/lfm2", "families/nemotron",
                      "families/voyage", "families/modules/markers"),
    "test_pages_proved test_prompts_with_pictures": (
        "proof/pictures/prompted", "proof/pictures/qwen_vl", "proof/pictures/pages",
    ),
    "test_processor_settings": ("files/pictures/classes", "files/pictures/processor", "families/_pictures"),
    "test_qwen2_vl test_qwen2_vl_recipes": (
        "families/_qwen2_vl", "families/qwen2_5_vl", "families/modules/qwen2_vl", "families/jina_vl",
        "families/_colqwen2", "families/colqwen2", "families/colqwen2_5", "families/modules/markers",
    ),
    "test_qwen3_vl": ("families/_qwen3_vl", "families/colqwen3", "families/ops_colqwen3",
                      "families/nemotron_colembed", "families/modules/qwen3_vl"),
    "test_qwen3_5": ("families/qwen3_5", "families/colqwen3_5", "families/modules/delta_net"),
    "test_encoders_traps": ("families/deberta", "families/ernie", "families/jina", "families/modernbert",
                            "families/mpnet", "families/nomic", "families/roberta", "families/bert"),
    "test_evidence": ("proof/evidence",),
    "test_report_page": ("report_page/charts", "report_page/layers",
                         "report_page/operators", "report_page/page"),
    "test_head_modules test_sentence_files": ("heads/head_modules", "heads/planning", "heads/layers"),
    "test_late_interaction_library": ("heads/texts/colbert",),
    "test_library_heads": ("proof/library_texts", "proof/library_comparison", "proof/library_distances"),
    "test_library_models": ("proof/library_sentence_transformers",),
    "test_library_reference": ("proof/library_answers", "proof/library_comparison", "proof/library_heads",
    "proof/library_models", "proof/library_sentence_transformers", "proof/library_texts"),
    "test_logit_scores": ("heads/logits", "heads/texts/processing"),
    "test_lora": ("files/adapter", "heads/checks", "files/adapter_merge"),
    "test_expanded_windows": ("graph/passes/surgery", "graph/passes/empty_rows", "graph/passes/nan_guard"),
    "test_module_steps test_module_chains test_modular_rerankers": (
        "files/module_chain", "heads/sentence_modules", "heads/operations", "heads/tasks", "heads/embedding",
    ),
    "test_routers": ("files/routers", "heads/static_words", "heads/operations"),
    "test_precision": ("graph/quantisation/rows", "graph/passes/surgery",
    "graph/quantisation/dynamic", "graph/quantisation/products", "graph/passes/mixed",
    "graph/passes/nan_guard",
    "graph/rewriting",
    "precision/choice", "precision/dynamic", "precision/int8", "precision/trials", "precision/mixed"),
    "test_weight_only": ("graph/quantisation/weight_only", "graph/quantisation/groups",
    "precision/weight_only"),
    "test_slices": ("graph/passes/slices",),
    "test_static_int8": ("graph/quantisation/static", "graph/quantisation/activations", "precision/gate",
    "precision/calibration", "precision/calibration_texts", "precision/static", "precision/int8"),
    "test_published": ("files/recipe", "families/_published_class"),
    "test_plausible test_refusals": ("base/json_file", "files/plausible", "base/refusals", "unread"),
    "test_reshaped": (
        "families/modules/experts", "families/modules/padding", "families/modules/traceable",
        "families/modules/rotary", "families/big_bird",
        "families/generic", "families/longformer", "families/nomic_moe", "families/modules/nomic_moe",
        "families/t5",
        "unread",
    ),
    "test_streamed": ("files/adapted_parameter", "graph/tracing", "graph/onnx_files", "base/large",
    "proof/sliced_graph", "graph/streaming", "graph/rewriting"),
    "test_graph": ("graph/passes/strip",),
    "test_packing": ("graph/passes/unpacking",),
    "test_blocks": ("graph/passes/unpacking", "graph/attention/body", "graph/attention/regions",
    "graph/attention/scopes", "graph/attention/windows"),
    "test_simplify": ("graph/passes/simplify",),
    "test_passes": ("graph/passes/order", "graph/passes/signature"),
    "test_verify test_pipeline": ("graph/onnx_files", "pipeline", "proof/reference", "proof/texts",
    "proof/verify"),
}  # fmt: skip
TABLE = {"runtime": RUNTIME, "serve": SERVE, "exporter": EXPORTER}


def nearest(root: Path, source: str) -> list[str]:
    """Test files for a source file, both relative to `root`, the nearest first: those of its own name, then
    those of the table; where there are none, those that import it."""
    area, _, rest = source.removesuffix(".py").partition("/")
    named = sorted(
        path.stem for path in (root / "tests" / area).glob(f"test_{Path(rest).stem.strip('_')}*.py")
    )
    listed = [test for tests, sources in TABLE[area].items() if rest in sources for test in tests.split()]
    places = dict.fromkeys(
        f"tests/{stem}.py" if "/" in stem else f"tests/{area}/{stem}.py" for stem in [*named, *listed]
    )
    return [place for place in places if (root / place).is_file()] or importing(root, area, rest)


def importing(root: Path, area: str, rest: str) -> list[str]:
    """Tests with `from poolrt.AREA.MODULE import ...` or `from poolrt.AREA import ..., MODULE`."""
    package, _, module = f"poolrt.{area}.{rest.replace('/', '.')}".rpartition(".")
    written = re.compile(
        rf"^\s*from {re.escape(package)}(\.{module} " r"import |( import " rf".*\b{module}\b))",
        re.MULTILINE,
    )
    tests = sorted((root / "tests" / area).glob("test_*.py"))
    return [str(path.relative_to(root)) for path in tests if written.search(path.read_text(encoding="utf-8"))]
