"use strict";
const $ = (id) => document.getElementById(id);
/** An element from a tag, properties and children. Text only ever becomes text nodes: nothing a user or model says is parsed as HTML. */
function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name === "vars") for (const [variable, number] of Object.entries(value)) element.style.setProperty("--" + variable, number);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
const show = (score) => (Math.abs(score) >= 100 ? score.toFixed(1) : Math.abs(score) >= 10 ? score.toFixed(3) : score.toFixed(4)).replace("-", "−");

// --- the server --------------------------------------------------------------------------------------------------------------
let models = [];
let keyed = false;
let model = null;
let pdf = false;
/** Of what runs now; "Stop" and every turn to something else abort it. */
let controller = new AbortController();

/** Counts what the user turned to; an answer to what was asked before that is dropped. */
let turn = 0;
class Stale extends Error {}
class Problem extends Error {
  constructor(status, message, field) { super(message); this.status = status; this.field = field; }
}

/** Without the user name and key that an address may carry: fetch refuses those, and a curl command must not show them. */
const addressOf = (path) => new URL(path, location.origin + location.pathname);
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
const isLong = (value) => typeof value === "string" && value.startsWith("data:") && value.length > 160;
const kilobytes = (count) => (count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(1)} MB`);
/** The JSON of a body for people: of a picture only the ends. */
const brief = (body) => JSON.stringify(body, (key, value) => (isLong(value) ? `${value.slice(0, 48)}… ${kilobytes(value.length)} …${value.slice(-8)}` : value));

/** The command for a body, or the same command with its pictures shortened. A body with pictures goes through curl's input: a shell takes
    128 kB in one argument at most. */
function curl(path, body, write = JSON.stringify) {
  const lines = ["curl " + quoted(addressOf(path).href)];
  const json = body && write(body);
  if (keyed || $("key").value) lines.push('-H "Authorization: Bearer $POOLRT_API_KEY"');
  if (body) lines.push("-H 'Content-Type: application/json'", brief(body) === JSON.stringify(body) ? "-d " + quoted(json) : `--data-binary @- <<'JSON'\n${json}\nJSON`);
  return lines.join(" \\\n  ");
}

/** One request; its curl command, time and usage go to the list under the answer. Throws Problem, and Stale where the user has turned to
    something else or stopped it; a `steady` request goes on whatever the user does. */
async function ask(path, body, { steady = false } = {}) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  const start = performance.now(), mine = turn, { signal } = controller;
  let response, text;
  try {
    response = await fetch(addressOf(path), { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store", signal: steady ? undefined : signal });
    text = await response.text();
  } catch (error) {
    if (signal.aborted && !steady) throw new Stale();
    throw new Problem(0, "The server cannot be reached. Is it still running?");
  }
  if (mine !== turn && !steady) throw new Stale();
  const took = performance.now() - start;
  let answer = null;
  try { answer = JSON.parse(text); } catch (error) { /* an error page of something in between: told below by its status */ }
  if (body && !path.startsWith("playground/")) log(path, body, response.status, took, answer);
  if (response.ok && answer !== null) return answer;
  if (response.status === 401) {
    $("key-sheet").open = true;
    $("key").focus();
    throw new Problem(401, "This server asks for its API key: enter it under “Key” and try again.");
  }
  const message = answer?.error?.message ?? answer?.detail ?? (typeof answer?.error === "string" ? answer.error : `The server answered ${response.status}.`);
  throw new Problem(response.status, String(message), answer?.error?.param);
}

const MOST_LOGGED = 8;
function log(path, body, status, took, answer) {
  const count = Number($("more").dataset.count ?? 0);
  $("requests").hidden = false;
  if ($("log").childElementCount >= MOST_LOGGED) {  // a search over dozens of pictures asks the same of each
    $("more").dataset.count = count + 1;
    $("more").textContent = `and ${plural(count + 1, "request")} like them`;
    $("more").hidden = false;
    return;
  }
  const command = curl(path, body, brief);
  const copy = h("button", { type: "button", "aria-label": `Copy the curl command for ${path}` }, "Copy curl");
  const code = h("pre", { tabIndex: 0, "aria-label": "curl command" }, command);
  copy.addEventListener("click", () => copyText(curl(path, body), code, copy));
  const tokens = answer?.usage?.prompt_tokens ?? answer?.count;
  $("log").append(h("div", { className: "request" },
    h("header", {}, h("b", {}, "POST /" + path), h("span", {}, String(status)), h("span", {}, `${took.toFixed(took < 10 ? 1 : 0)} ms`),
      Number.isInteger(tokens) ? h("span", {}, plural(tokens, "token")) : null, copy),
    code));
}

function forget() {
  $("log").replaceChildren();
  $("more").hidden = true;
  delete $("more").dataset.count;
}

async function copyText(text, element, button) {
  const select = () => { const range = document.createRange(); range.selectNodeContents(element); getSelection().removeAllRanges(); getSelection().addRange(range); };
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch (error) {  // plain http on another machine has no clipboard
    element.textContent = text;
    select();
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected: press Ctrl C";
  say(button.textContent);
  setTimeout(() => { button.textContent = "Copy curl"; }, 2000);
}

const say = (text) => { $("live").textContent = text; };

// --- tokens as people read them ----------------------------------------------------------------------------------------------
/** Bytes behind the letters of byte-level vocabularies (GPT-2's table): printable bytes stand for themselves, the rest from U+0100 on. */
const BYTES = (() => {
  const table = new Map();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
    table.set(plain ? String.fromCharCode(byte) : String.fromCharCode(next++), byte);
  }
  return table;
})();

/** [{id, text, joined, special}]: the vocabulary's marks (##, ▁, Ġ) become `joined`, which says that a token continues the word before. */
function readable(ids, pieces) {
  const wordpiece = pieces.some((piece) => piece.startsWith("##"));
  const sentence = pieces.some((piece) => piece.startsWith("▁"));
  const bytes = !sentence && pieces.some((piece) => /[ĠĊ]/.test(piece));
  let first = true;
  return pieces.map((piece, index) => {
    const special = /^(\[[A-Za-z0-9_]+\]|<[^<>]+>)$/.test(piece);
    let text = piece, joined = false;
    if (!special) {
      if (wordpiece) { joined = piece.startsWith("##"); text = piece.replace(/^##/, ""); }
      else if (sentence) { joined = !piece.startsWith("▁") && !first; text = piece.replaceAll("▁", " ").trim(); }
      else if (bytes) {
        joined = !/^[ĠĊ]/.test(piece) && !first;
        if ([...piece].every((letter) => BYTES.has(letter))) text = new TextDecoder().decode(Uint8Array.from([...piece], (letter) => BYTES.get(letter)));
        text = text.replaceAll("\n", "⏎").trim();
      }
      first = false;
    }
    return { id: ids[index], text: text || "␣", joined, special };
  });
}

const tokenize = async (text) => { const response = await ask("tokenize", { model: model.id, prompt: text, return_token_strs: true }); return readable(response.tokens, response.token_strs); };

/** The tokens whose vectors the server answers for one side: prefix, limit, marker, expansion and skip list as `role` says. */
function prepared(tokens, role, name) {
  let row = tokens;
  const limit = (role?.max_tokens ?? model.max_tokens) - (role?.marker_id != null ? 1 : 0);
  if (row.length > limit) row = [...row.slice(0, limit - 1), row.at(-1)];
  if (role?.marker_id != null) row = [row[0], { id: role.marker_id, text: name === "query" ? "[Q]" : "[D]", special: true }, ...row.slice(1)];
  if (role?.expand_id != null) while (row.length < role.max_tokens) row = [...row, { id: role.expand_id, text: "[MASK]", special: true }];
  return row.filter((token) => !role?.skip_ids.includes(token.id));
}

/** Cuts what the head leaves out at both ends; numbers the rows if the server counted them otherwise than we did. */
function fitted(tokens, head, rows) {
  const ends = (count, id, token) => (id == null || token?.id === id ? count : 0);
  const last = ends(head.drop_last, head.drop_last_id, tokens.at(-1));
  const row = tokens.slice(ends(head.drop_first, head.drop_first_id, tokens[0]), tokens.length - last);
  return row.length === rows ? row : Array.from({ length: rows }, (_, index) => ({ text: `#${index + 1}` }));
}

const tokenView = (token, extra = {}, ...inside) =>
  h(extra.tag ?? "li", { ...extra.properties, className: [token.joined ? "joined" : "", token.special ? "special" : "", extra.className ?? ""].join(" ").trim(), vars: { w: extra.weight ?? 0, ...(extra.hue ? { hue: extra.hue } : {}) } }, token.text, ...inside);
