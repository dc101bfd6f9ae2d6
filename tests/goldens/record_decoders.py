"""Records what the real vLLM answers for the tiny decoders of tests/families, one .npz per
checkpoint: `make goldens`.

POOLRT_VLLM names the `vllm` program; the interpreter beside it runs this file's second half. Texts are given
as ids, and those of which a tokenizer makes nothing are left out, so that nothing but the model is compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "decoders"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}  # fmt: skip
TWO = {"classifier_from_token": ["0", "1"], "method": "from_2_way_softmax"}
# Checkpoint -> tasks, overrides, pooler config, and keys of config.json that stand for remote code.
WANTED: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "qwen3_embedding": (("embed", "token_embed"), {}, {}, {}),
    "qwen3_reranker": (
        ("classify",),
        {
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        },
        {},
        {},
    ),
    "mxbai_rerank": (("classify",), {"architectures": ["Qwen2ForSequenceClassification"], **TWO}, {}, {}),
    "bge_gemma": (
        ("classify",),
        {
            "architectures": ["GemmaForSequenceClassification"],
            "classifier_from_token": ["Yes"],
            "method": "no_post_processing",
        },
        {},
        {},
    ),
    "qwen2_apeach": (("classify",), {}, {}, {}),
    "gte_qwen2": (("embed",), {}, {}, {}),
    "voyage": (("embed",), {}, {}, {}),
    "nemotron_embed": (("embed",), {}, {}, {"model_type": "llama", "auto_map": None}),
    "qwen2_reward": (("token_classify",), {}, {}, {"auto_map": None}),
    "qwen2_process_reward": (("token_classify",), {}, {"step_tag_id": 68}, {"auto_map": None}),
    "gemma2_embedder": (("embed",), {}, {}, {}),
    "embedding_gemma": (("embed",), {}, {}, {}),
    "e5_mistral": (("embed",), {}, {}, {}),
    "llama3_causal": (("embed",), {}, {}, {}),
}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.checkpoints import TABLE, configure
    from tests.families import find, ids_of_texts

    FOLDER.mkdir(exist_ok=True)
    python = Path(os.environ["POOLRT_VLLM"]).parent / "python"
    for name in sys.argv[1:] or WANTED:
        tasks, overrides, pooler, keys = WANTED[name]
        with tempfile.TemporaryDirectory() as place:
            checkpoint = find(name)(Path(place) / "checkpoint")
            ids = [row for row in ids_of_texts(checkpoint, TABLE) if row]
            if keys:
                configure(checkpoint, **keys)
            told = {
                "checkpoint": str(checkpoint),
                "overrides": overrides,
                "ids": ids,
                "tasks": tasks,
                "pooler": pooler,
            }
            told["out"] = str(FOLDER / f"{name}.npz")
            done = subprocess.run(
                [python, __file__, "--inside", json.dumps(told)], env=os.environ | SETTINGS, check=False
            )
            print(f"{name}: {'recorded' if done.returncode == 0 else 'failed'}", flush=True)


def inside(asked: dict[str, Any]) -> None:
    """Runs in vLLM's interpreter."""
    import numpy as np
    import torch
    import transformers
    import vllm  # pyright: ignore[reportMissingImports]  # installed in the recording interpreter only

    prompts = [{"prompt_token_ids": ids} for ids in asked["ids"]]
    versions = json.dumps(
        {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    )
    arrays: dict[str, Any] = {"versions": np.array(versions)}
    for task in asked["tasks"]:
        model = vllm.LLM(
            model=asked["checkpoint"], runner="pooling", dtype="float32", enforce_eager=True,
            hf_overrides=asked["overrides"],
            pooler_config={"task": task, **asked["pooler"]}, enable_prefix_caching=False, seed=0,
        )  # fmt: skip
        answers = model.encode(prompts, pooling_task=task, use_tqdm=False)
        arrays |= {
            f"{task}_{index}": np.asarray(answer.outputs.data, dtype=np.float32)
            for index, answer in enumerate(answers)
        }
        del model
    np.savez_compressed(asked["out"], **arrays)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(json.loads(sys.argv[2]))
    else:
        main()
