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
