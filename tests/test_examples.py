"""Every script of examples/, run against tiny checkpoints; what it prints is what the model says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import LLM, PoolingParams
from poolrt.runtime.artifact import checkpoints
from poolrt.serve.cli import parse, settings_of
from poolrt.serve.process.startup import models_of
from poolrt.serve.settings import Settings, template_of

from tests.conftest import exported
from tests.end_to_end.commands import environment
from tests.families import decoders
from tests.serve.conftest import live, serving

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SHOWN = 1e-6  # six digits are printed

Run = Callable[..., str]


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`script("offline_inference/basic/embed.py", "--model", folder)`: what it prints. Run from a
    folder that has no examples."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A checkpoint, exported by the first script that opens it; the others find it in the cache."""

    def in_process(program: Sequence[str]) -> tuple[int, str]:
        from poolrt.exporter import cli

        return cli.export(program[program.index("export") + 1 :]), "see above"

    folder = tmp_path_factory.mktemp("qwen3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(checkpoints.artifact_of, "__kwdefaults__", {"cache": None, "run": in_process})
        yield str(decoders.qwen3_reranker(folder / "Qwen3-Reranker", max_position_embeddings=512))


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(
        "nemotron_rerank", lambda _: decoders.nemotron_rerank(tmp_path_factory.mktemp("nemotron"))
    )


def numbers(text: str) -> list[float]:
    """Those of six decimals, in order."""
    return [float(found) for found in re.findall(r"-?\d+\.\d{6}\b", text)]


# --- offline
# ------------------------------------------------------------------------------------------------------------


def test_embed(script: Run, artifacts: Callable[[str], Path]):
    told = script("offline_inference/basic/embed.py", "--model", artifacts("minilm_like"))
    vector = (
        LLM(str(artifacts("minilm_like")))
        .embed("The sun rises in the east.", use_tqdm=False)[0]
        .outputs.embedding
    )
    assert told.count("(size=64)") == 3
    assert ", ".join(f"{value:+.4f}" for value in vector[:8]) in told


def test_classify(script: Run, artifacts: Callable[[str], Path]):
    told = script("offline_inference/basic/classify.py", "--model", artifacts("bert_classifier"))
    output = (
        LLM(str(artifacts("bert_classifier"))).classify("I want my money back.", use_tqdm=False)[0].outputs
    )
    assert (
        f"[{', '.join(f'{value:.4f}' for value in output.probs)}] (size=3), most likely {output.label}"
    ) in told


@pytest.mark.parametrize("path", ["offline_inference/basic/score.py", "basic/offline_inference/score.py"])
def test_score(script: Run, artifacts: Callable[[str], Path], path: str):
    told = script(path, "--model", artifacts("xlmr_reranker"))
    expected = LLM(str(artifacts("xlmr_reranker"))).score(
        "Why does dough rise?", ["Yeast turns sugar into gas.", "The sun rises in the east."], use_tqdm=False
    )
    np.testing.assert_allclose(numbers(told), np.asarray(expected), atol=SHOWN)


def test_reward(script: Run, artifacts: Callable[[str], Path]):
    told = script("offline_inference/basic/reward.py", "--model", artifacts("bert_tokens"))
    rewards = (
        LLM(str(artifacts("bert_tokens"))).reward("Two and two are five.", use_tqdm=False)[0].outputs.data
    )
    assert f"{len(rewards)} tokens, the last one: {rewards[-1]}" in told


def test_matryoshka_offline(script: Run, artifacts: Callable[[str], Path]):
    model = str(artifacts("minilm_like"))
    asked = ("--hf-overrides", '{"is_matryoshka": true}')
    told = script("pooling/embed/embed_matryoshka_fy_offline.py", "--model", model, *asked)
    llm = LLM(model, hf_overrides={"is_matryoshka": True})
    vector = llm.embed(
        "Follow the white rabbit.", pooling_params=PoolingParams(dimensions=32), use_tqdm=False
    )[0].outputs.embedding
    assert told.count("(size=32)") == 2
    assert ", ".join(f"{value:+.4f}" for value in vector[:8]) in told


def test_qwen3_reranker_offline_and_online(script: Run, qwen3: str):
    overrides = (
        '{"architectures": ["Qwen3ForSequenceClassification"],"classifier_from_token": ["no", '
        '"yes"],"is_original_qwen3_reranker": true}'
    )
    told = numbers(script("pooling/score/qwen3_reranker_offline.py", "--model", qwen3))
    assert len(set(told)) == 2
    line = [
        qwen3,
        "--hf_overrides",
        overrides,
        "--chat-template",
        "examples/pooling/score/template/qwen3_reranker.jinja",
    ]
    flags, _ = parse(line)
    registry = models_of(flags, settings_of(flags)).registry
    registry.open()
    with serving(registry, settings_of(flags), owns_models=True) as server:
        place = ("--port", server.port, "--model", qwen3)
        ranked = script("pooling/score/qwen3_reranker_online.py", *place)
        other = script("pooling/score/qwen3_reranker_online.py", *place, "--instruction", "be strict")
    assert sorted(numbers(ranked), reverse=True) == numbers(ranked)
    (score,) = [float(line.split()[0]) for line in ranked.splitlines() if "Beijing" in line]
    assert score == pytest.approx(told[0], abs=SHOWN)
    assert numbers(other) != numbers(ranked)


def test_a_template_offline_and_online(script: Run, nemotron: Path):
    told = numbers(script("pooling/score/using_template_offline.py", "--model", nemotron))
    template = template_of("examples/pooling/score/template/nemotron-rerank.jinja")
    with live(LLM(str(nemotron)).model, settings=Settings(chat_template=template)) as server:
        asked = script(
            "pooling/score/using_template_online.py", "--port", server.port, "--model", "nemotron_rerank"
        )
    np.testing.assert_allclose(numbers(asked), told, atol=SHOWN)
    assert "best: " in asked
    (bare,) = LLM(str(nemotron)).score(
        "how much protein should a female eat?", "A summit is the top of a mountain.", use_tqdm=False
    )
    assert abs(bare.outputs.score - told[1]) > SHOWN, "the template changes nothing"


# --- online
# ------------------------------------------------------------------------------------------------------------


def test_colbert_and_the_rerank_api(script: Run, artifacts: Callable[[str], Path]):
    models = [LLM(str(artifacts(name))).model for name in ("colbert", "xlmr_reranker")]
    with live(*models) as server:
        late = script("pooling/score/colbert_rerank_online.py", "--port", server.port, "--model", "colbert")
        ranked = script(
            "pooling/score/rerank_api_online.py", "--port", server.port, "--model", "xlmr_reranker"
        )
    assert "token vectors of 16 dimensions" in late
    assert len(re.findall(r"^ +-?\d+\.\d{4}  ", late, re.MULTILINE)) == 3
    assert ranked.count('"relevance_score"') == 3


def test_matryoshka_with_openai_s_client(script: Run, artifacts: Callable[[str], Path]):
    llm = LLM(str(artifacts("minilm_like")), hf_overrides={"matryoshka_dimensions": [32]})
    with live(llm.model) as server:
        told = script(
            "pooling/embed/openai_embedding_matryoshka_fy_client.py",
            "--base-url",
            f"http://127.0.0.1:{server.port}/v1",
        )
    assert told.endswith("(size=32)\n")


def test_a_script_runs_as_typed(artifacts: Callable[[str], Path]):
    """In a process of its own, with the package importable as an installation makes it."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); del sys.argv[0]; import conftest, runpy; "
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    path = "examples/offline_inference/basic/embed.py"
    arguments = [sys.executable, "-c", start, path, "--model", str(artifacts("minilm_like"))]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "(size=64)" in done.stdout


def test_every_script_is_run_and_listed():
    scripts = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")}
    here, page = (
        Path(__file__).read_text(encoding="utf-8"),
        (EXAMPLES / "README.md").read_text(encoding="utf-8"),
    )
    assert scripts
    assert {name for name in scripts if name in here} == scripts
    assert {name for name in scripts if name in page} == scripts - {"basic/offline_inference/score.py"}
