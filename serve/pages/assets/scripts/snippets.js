// --- the code of a request ---------------------------------------------------------------------------------------------------
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
const isLong = (value) => typeof value === "string" && value.startsWith("data:") && value.length > 160;
const kilobytes = (count) => (count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(1)} MB`);
/** The JSON of a body for people: of a picture only the ends. */
const brief = (body) => JSON.stringify(body, (key, value) => (isLong(value) ? `${value.slice(0, 48)}… ${kilobytes(value.length)} …${value.slice(-8)}` : value));
const needsKey = () => keyed || Boolean($("key").value);

/** The command for a body, or the same command with its pictures shortened. A body with pictures goes through curl's input: a shell takes
    128 kB in one argument at most. */
function curl(path, body, write = JSON.stringify) {
  const lines = ["curl " + quoted(addressOf(path).href)];
  const json = body && write(body);
  if (needsKey()) lines.push('-H "Authorization: Bearer $POOLRT_API_KEY"');
  const small = json && json.length < 1e5 && brief(body) === JSON.stringify(body);
  if (body) lines.push("-H 'Content-Type: application/json'", small ? "-d " + quoted(json) : `--data-binary @- <<'JSON'\n${json}\nJSON`);
  return lines.join(" \\\n  ");
}

/** A JSON value as Python writes it. */
function python(value) {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (value && typeof value === "object") return `{${Object.entries(value).map(([name, inner]) => `${JSON.stringify(name)}: ${python(inner)}`).join(", ")}}`;
  return typeof value === "string" || typeof value === "number" ? JSON.stringify(value) : { true: "True", false: "False", null: "None" }[String(value)];
}
const named = (fields) => Object.entries(fields).filter(([, value]) => value !== undefined).map(([name, value]) => `    ${name}=${python(value)},\n`).join("");
const keyInPython = (absent) => (needsKey() ? 'os.environ["POOLRT_API_KEY"]' : absent);
const imports = (line) => (needsKey() ? `import os\n\n${line}\n\n` : `${line}\n\n`);

/** OpenAI's library for embeddings of texts, else httpx. */
function inPython(path, body) {
  if (path === "v1/embeddings" && body.input) {
    const { model: name, input, dimensions, encoding_format, ...rest } = body;
    return imports("from openai import OpenAI") + `client = OpenAI(base_url=${python(addressOf("v1").href)}, api_key=${keyInPython('"none"')})\n`
      + `answer = client.embeddings.create(\n${named({ model: name, input, dimensions, extra_body: Object.keys(rest).length ? rest : undefined })})\nprint(answer.data[0].embedding)\n`;
  }
  const key = needsKey() ? `    headers={"Authorization": "Bearer " + ${keyInPython()}},\n` : "";
  return imports("import httpx") + `answer = httpx.post(\n    ${python(addressOf(path).href)},\n${key}    json=${python(body)},\n    timeout=60,\n)\nprint(answer.raise_for_status().json())\n`;
}

function inJavaScript(path, body) {
  const key = needsKey() ? ', "Authorization": "Bearer " + process.env.POOLRT_API_KEY' : "";
  return `const response = await fetch(${JSON.stringify(addressOf(path).href)}, {\n  method: "POST",\n  headers: { "Content-Type": "application/json"${key} },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nconst answer = await response.json();\n`;
}

/** Cohere's library; null for what its API has no request for. */
function withCohere(path, body) {
  const call = cohereCall(path, body);
  return call && imports("import cohere") + `client = cohere.ClientV2(base_url=${python(addressOf(".").href.replace(/\/$/, ""))}, api_key=${keyInPython('"none"')})\n${call}`;
}
function cohereCall(path, body) {
  if (path === "v1/embeddings" && body.input) {
    const fields = { model: body.model, texts: [].concat(body.input), input_type: body.input_type ?? null, embedding_types: ["float"], output_dimension: body.dimensions };
    return `answer = client.embed(\n${named(fields)})\nprint(answer.embeddings.float_[0])\n`;
  }
  if (path === "rerank" && typeof body.query === "string" && body.documents.every((document) => typeof document === "string")) {
    return `answer = client.rerank(\n${named({ model: body.model, query: body.query, documents: body.documents, top_n: body.top_n || undefined })})\nprint(answer.results)\n`;
  }
  return null;
}

/** [{name, shown, whole}]: a request in each language; `shown` has pictures shortened. */
function snippetsOf(path, body) {
  const short = JSON.parse(brief(body));
  const writers = [["curl", (content) => (content === short ? curl(path, body, brief) : curl(path, body))], ["Python", (content) => inPython(path, content)],
    ["JavaScript", (content) => inJavaScript(path, content)], ["Cohere", (content) => withCohere(path, content)]];
  return writers.map(([name, write]) => ({ name, shown: write(short), whole: () => write(body) })).filter((snippet) => snippet.shown);
}
