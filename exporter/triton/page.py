"""README.md of a repository: how to start Triton, what its Python needs, what clients send."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.artifact.manifest import Manifest
from ...runtime.version import version
from .config import ANY, Config, Value
from .served_graph import ServedGraph

_START = """From this folder (`<xx.yy>` is a release of Triton{release}):

```
{build}docker run --rm {gpus}--shm-size=1g -p 8000:8000 -p 8001:8001 -p 8002:8002 \\
  -v "$PWD:/models" {image} tritonserver --model-repository=/models
```
"""
_BUILD = """docker build -t triton-poolrt - <<'END'
FROM nvcr.io/nvidia/tritonserver:<xx.yy>-py3
RUN pip install 'poolrt=={version}'
END
"""
_PYTHON = """## The Python backend

`{names}` prepares texts and finishes the answers, and asks `{graph}` for the numbers in
between. Its environment needs poolrt {version} (with numpy, tokenizers and jinja2; no engine, no PyTorch) in
the Python that Triton's stub runs: installed into the image as above, or packed with conda-pack and named in
`config.pbtxt`:

```
parameters {{
  key: "EXECUTION_ENV_PATH"
  value {{ string_value: "$$TRITON_MODEL_DIRECTORY/environment.tar.gz" }}
}}
```

"""
_PARAMETERS = """A request may have these parameters: {parameters}.
Texts are cut to {max_tokens} tokens unless `truncate` is false.

```python
import numpy as np
from tritonclient import http

client = http.InferenceServerClient("localhost:8000")
tensors = []
for name, texts in {texts}.items():
    array = np.array([[text] for text in texts], object)
    tensors.append(http.InferInput(name, list(array.shape), "BYTES"))
    tensors[-1].set_data_from_numpy(array)
print(client.infer("{model}", tensors).as_numpy("{output}"))
```
"""
_CLIENT = """## What a client sends

Token ids, which [client.py](client.py) makes of texts with `tokenizer.json` and the facts of `client.json`.
It needs `numpy`, `tokenizers` and `tritonclient[http]`:

```
python client.py "a first text" "a second one"
```

All inputs are int64 `[batch, tokens]`, padded on the right:

{inputs}

{rules}

## What the graph returns, and what is left to do

{heads}
"""
_INPUTS = {
    "input_ids": "token ids, special tokens included, filled up with {pad_id}; at most {max_tokens}",
    "attention_mask": "1 for tokens, 0 for padding",
    "token_type_ids": "0; of a pair 1 for the tokens of the second text, as the tokenizer says",
    "token_kinds": "0",
}


def text(manifest: Manifest, served: ServedGraph, configs: Sequence[Config]) -> str:
    """Returns the page."""
    *python, graph = configs
    file = served.graph.file if served.engine is None else served.engine.file
    parts = [f"# {manifest.name} for Triton\n\nWritten by `poolrt triton` {version()} from `{file}`.\n"]
    if served.engine is not None:
        parts.append(
            f"The plan was compiled by TensorRT {served.engine.version} for {served.engine.device}, and runs "
            "with that version on such a GPU alone. All its shapes are profiles of the instance group.\n"
        )
    else:
        parts.append(f"The graph has opset {served.graph.opset}, which ONNX Runtime must know.\n")
    parts.append(_table(configs))
    image = "triton-poolrt" if python else "nvcr.io/nvidia/tritonserver:<xx.yy>-py3"
    parts.append(
        "## Start\n\n"
        + _START.format(
            build=_BUILD.format(version=version()) if python else "",
            gpus="" if graph.cpu else "--gpus all ",
            image=image,
            release=", whose Python is 3.11 or newer" if python else "",
        )
    )
    parts.append(_of_python(manifest, python, graph) if python else _of_client(manifest, graph))
    return "\n".join(parts)


def _table(configs: Sequence[Config]) -> str:
    lines = ["| model | backend | inputs | outputs |", "|---|---|---|---|"]
    for config in configs:
        values = (" ".join(map(_value, values)) for values in (config.inputs, config.outputs))
        lines.append(f"| `{config.name}` | {config.backend} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _value(value: Value) -> str:
    dims = ", ".join("any" if size == ANY else str(size) for size in value.dims)
    return f"`{value.name}` {value.data_type.removeprefix('TYPE_')} [{dims}]"


def _of_python(manifest: Manifest, python: Sequence[Config], graph: Config) -> str:
    first = python[0]
    scores = first.parameters["task"] == "score"
    texts = {"text": ["a first text", "a second one"]}
    if scores:
        documents = ["yeast makes gas", "the sun rises"]
        texts = {"query": ["why does dough rise?"] * 2, "document": documents}
    parameters = "`instruction`, `use_activation`, `truncate`, `truncate_prompt_tokens`"
    if not scores:
        parameters = f"`role`, `prompt_name`, `dimensions`, {parameters}"
    page = _PYTHON.format(
        names="`, `".join(config.name for config in python), graph=graph.name, version=version()
    )
    if first.max_batch_size == 0:
        return (
            f"{page}A request has one query, [1], and its documents, [documents]; its parameters are "
            f"{parameters}.\n"
        )
    return page + _PARAMETERS.format(
        parameters=parameters,
        max_tokens=manifest.text.max_tokens,
        texts=texts,
        model=first.name,
        output=first.outputs[0].name,
    )


def _of_client(manifest: Manifest, graph: Config) -> str:
    text = manifest.text
    facts = {"pad_id": text.pad_id, "max_tokens": text.max_tokens}
    inputs = [f"- `{value.name}`: {_INPUTS[value.name].format(**facts)}" for value in graph.inputs]
    rules = [f"- {rule}" for rule in _rules(manifest)]
    heads = [f"- {line}" for line in _heads(manifest)]
    return _CLIENT.format(inputs="\n".join(inputs), rules="\n".join(rules), heads="\n".join(heads))


def _rules(manifest: Manifest) -> list[str]:
    """What is done to texts before they become ids."""
    text = manifest.text
    rules: list[str] = []
    if text.default_prompt:
        rules.append(f"In front of every text stands {text.prompts[text.default_prompt]!r}.")
    for name, prompt in text.prompts.items():
        rules.append(f"The prompt `{name}` is {prompt!r}, in front of the text.")
    for name, role in text.roles.items():
        rule = f"A {name} is `{role.prefix}TEXT{role.suffix}`"
        if role.max_tokens is not None:
            rule += f", of at most {role.max_tokens} tokens"
        if role.marker_id is not None:
            rule += f", with the id {role.marker_id} behind the first token"
        if role.expand_id is not None:
            width, mask = role.expand_to or role.max_tokens, int(role.attend_expansion)
            rule += f", filled up with the id {role.expand_id} to {width} (mask {mask})"
        rules.append(f"{rule}.")
    if text.default_role:
        rules.append(f"A text without a role is a {text.default_role}.")
    if manifest.scoring == "cross-encoder":
        rules.append("A query and its document are one pair of the tokenizer.")
    return rules or ["Texts are tokenised as they are."]


def _heads(manifest: Manifest) -> list[str]:
    lines: list[str] = []
    for task in manifest.tasks:
        head = manifest.heads[task]
        line = f"`{task}` is the output `{head.output}`, {head.dim} wide"
        if head.logit_mean is not None or head.logit_sigma is not None:
            line += f", minus {head.logit_mean or 0} and divided by {head.logit_sigma or 1}"
        if head.activation != "identity":
            line += f", then {head.activation} of the last axis"
        if head.pool == "tokens":
            line += ", without the rows of padding"
        if head.drop_first or head.drop_last:
            line += f", of the first {head.drop_first} and the last {head.drop_last} tokens"
        if head.labels:
            line += f"; its columns are {', '.join(head.labels)}"
        lines.append(f"{line}.")
    for name, role in manifest.text.roles.items():
        if role.skip_ids:
            lines.append(
                f"Of a {name} the vectors of the ids {', '.join(map(str, role.skip_ids))} are dropped."
            )
    return lines
