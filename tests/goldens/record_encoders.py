"""Records what the real vLLM answers for the tiny encoders of tests/families, one .npz per
checkpoint: `make goldens`.

The environment variable POOLRT_VLLM names the `vllm` program; the interpreter beside it runs this file's
second half. Every text is given as ids, so that nothing but the model is compared.
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
FOLDER = Path(__file__).parent / "encoders"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR",
}  # fmt: skip
# Checkpoint -> tasks, and what this vLLM must be told that poolrt finds by itself.
WANTED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "modernbert_embedder": (("embed",), {}),
    "modernbert_reranker": (("classify", "token_classify"), {}),
    "modernbert_tokens": (("token_classify",), {}),
    # It reads GPT-2's keys of this family but for one. The mixture of experts needs a GPU in
    # vLLM: numpy stands for it.
    "nomic_v1": (("embed",), {"num_attention_heads": 2}),
    "gte_snowflake": (("embed",), {}),
    "splade_decoder": (("embed", "token_embed"), {"architectures": ["BertSpladeSparseEmbeddingModel"]}),
}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from tests.checkpoints import TABLE
    from tests.families import find, ids_of_texts

    program = Path(os.environ["POOLRT_VLLM"])
    for name in sys.argv[1:] or WANTED:
        tasks, overrides = WANTED[name]
        with tempfile.TemporaryDirectory() as place:
            checkpoint = find(name)(Path(place) / "checkpoint")
            asked = {
                "checkpoint": str(checkpoint),
                "overrides": overrides,
                "ids": ids_of_texts(checkpoint, TABLE),
            }
            arrays: dict[str, Any] = {}
            for task in tasks:
                out = Path(place) / f"{task}.npz"
                told = json.dumps(asked | {"task": task, "out": str(out)})
                subprocess.run(
                    [program.parent / "python", __file__, "--inside", told],
                    env=os.environ | SETTINGS,
                    check=True,
                )
                with np.load(out) as found:
                    arrays |= {
                        f"{task}_{key}" if key != "versions" else key: found[key] for key in found.files
                    }
            FOLDER.mkdir(exist_ok=True)
            np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
            print(f"{name}: {', '.join(tasks)}")


def inside(asked: dict[str, Any]) -> None:
    """Runs in vLLM's interpreter."""
    import numpy as np
    import torch
    import transformers
    import vllm  # pyright: ignore[reportMissingImports]  # installed in the recording interpreter only

    model = vllm.LLM(
        model=asked["checkpoint"], runner="pooling", dtype="float32", enforce_eager=True,
        hf_overrides=asked["overrides"],
        pooler_config={"task": asked["task"]}, enable_prefix_caching=False, seed=0,
    )  # fmt: skip
    prompts = [{"prompt_token_ids": ids} for ids in asked["ids"]]
    answers = model.encode(prompts, pooling_task=asked["task"], use_tqdm=False)
    arrays = {
        str(index): np.asarray(answer.outputs.data, dtype=np.float32) for index, answer in enumerate(answers)
    }
    versions = json.dumps(
        {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    )
    np.savez(asked["out"], **arrays | {"versions": np.array(versions)})  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(json.loads(sys.argv[2]))
    else:
        main()
