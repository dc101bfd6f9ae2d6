// --- the reference of the API, of openapi.json ---------------------------------------------------------------------------------
const MOST_SHOWN = 20000, MOST_EXACT = 1e15;
let api = null;

/** A sentence with its `names` as code. */
const prose = (text) => text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));

/** A schema's type in a few words. */
function kind(schema) {
  if (!schema || !Object.keys(schema).length) return "any";
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kind).join(" | ");
  if (schema.type === "array") return `[${kind(schema.items)}]`;
  const [low, high] = [schema.minimum, schema.maximum].map((bound) => (Math.abs(bound) <= MOST_EXACT ? bound : ""));  // beyond it a bound is that of the number's type
  const bounds = low !== "" || high !== "" ? ` (${low}…${high})` : "";
  return (schema.title || schema.$ref?.split("/").pop() || [].concat(schema.type || "object").join(" | ")) + bounds;
}

function fieldTable(form, label) {
  const rows = Object.entries(form.properties).map(([name, field]) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, name)), h("td", {}, kind(field)),
    h("td", { className: (form.required ?? []).includes(name) ? "" : "preset" }, (form.required ?? []).includes(name) ? "required" : h("code", {}, JSON.stringify(field.default ?? null))), h("td", {}, ...prose(field.description ?? ""))));
  return h("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": label }, h("table", { className: "plain-table" },
    h("thead", {}, h("tr", {}, ...["Field", "Type", "Default", "Meaning"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...rows)));
}

/** The fields of every form that a body may have; the first stays open. */
function fields(schema, path) {
  const forms = (schema.anyOf ?? [schema]).filter((form) => form.properties);
  return forms.map((form, at) => (at === 0 ? fieldTable(form, `Fields of ${path}`)
    : h("details", { className: "fold" }, h("summary", {}, `Or another body${form.required ? `, with ${form.required.join(" and ")}` : ""}${form.title ? ` (${form.title})` : ""}`), fieldTable(form, `Fields of ${path}, body ${at + 1}`))));
}

/** The example with the chosen model in front. Bodies without the field `model` stay as they are. */
function exampleOf(content) {
  const forms = content.schema.anyOf ?? [content.schema], { model: _, ...example } = content.example ?? {};
  const takesModel = forms.some((form) => form.properties?.model) || !forms.some((form) => form.properties);
  return takesModel && $("model").value ? { model: $("model").value, ...example } : example;
}

/** The body to send, the code that sends it, and a button that does. */
function trial(path, method, content) {
  const route = path.slice(1), output = h("pre", { className: "output", hidden: true, tabIndex: 0, "aria-label": `Response of ${path}` });
  const field = content ? h("textarea", { className: "body", spellcheck: false, "aria-label": `Body of ${path}` }) : null;
  const place = h("div", {}), fold = h("details", { className: "fold" }, h("summary", {}, "Code"), place);
  const renew = () => { try { place.replaceChildren(code(route, JSON.parse(field.value))); } catch (error) { place.replaceChildren(h("p", { className: "quiet" }, "The body is no JSON.")); } };
  fold.addEventListener("toggle", () => { if (fold.open) renew(); });
  const refill = () => {
    field.value = JSON.stringify(exampleOf(content), null, 2);
    field.rows = field.value.split("\n").length + 1;
    if (fold.open) renew();
  };
  if (field) {
    refill();
    $("model").addEventListener("change", refill);
    field.addEventListener("input", () => { if (fold.open) renew(); });
  }
  const button = h("button", { type: "button", className: "go" }, "Send");
  button.addEventListener("click", async () => {
    output.hidden = false;
    output.textContent = "…";
    const headers = { ...(field ? { "Content-Type": "application/json" } : {}), ...($("key").value ? { Authorization: `Bearer ${$("key").value}` } : {}) };
    const begun = performance.now();
    try {
      const response = await fetch(addressOf(route), { method: method.toUpperCase(), headers, body: field?.value, cache: "no-store" });
      let text = await response.text();
      const head = `${response.status} ${response.statusText}, ${(performance.now() - begun).toFixed(0)} ms`;
      try { text = JSON.stringify(JSON.parse(text), null, 1); } catch (error) { /* not JSON: shown as it is */ }
      if (text.length > MOST_SHOWN) text = `${text.slice(0, MOST_SHOWN)}\n… ${(text.length - MOST_SHOWN).toLocaleString("en")} characters more`;
      output.textContent = `${head}\n${text}`;
      say(`${path}: ${head}`);
    } catch (error) { output.textContent = `no response: ${error.message}`; }
  });
  return [h("h3", {}, "Try it"), field, h("div", { className: "row" }, button), output, field && method === "post" ? fold : null];
}

/** One route, filled when it is opened for the first time. */
function route(path, method, operation) {
  const inside = h("div", { className: "inside" });
  const block = h("details", { className: "route", id: `op-${operation.operationId}` }, h("summary", {}, h("span", { className: "method" }, method.toUpperCase()), h("code", {}, path), h("span", { className: "about" }, ...prose(operation.summary))), inside);
  const content = operation.requestBody?.content["application/json"];
  block.dataset.words = [path, operation.summary, ...(content?.schema.anyOf ?? [content?.schema]).flatMap((form) => Object.keys(form?.properties ?? {}))].join(" ").toLowerCase();
  block.addEventListener("toggle", () => {
    if (!block.open || inside.childElementCount) return;
    const simple = !path.includes("{") && (!operation.requestBody || content);
    inside.append(...[...(simple ? trial(path, method, content) : []), ...(content ? [h("h3", {}, "Fields"), ...fields(content.schema, path)] : []), h("h3", {}, "Responses"),
      h("dl", { className: "statuses" }, ...Object.entries(operation.responses).flatMap(([status, response]) => [h("dt", {}, status), h("dd", {}, ...prose(response.description))]))].filter(Boolean));
  });
  return block;
}

function drawGroups() {
  const groups = new Map(api.tags.map(({ name }) => [name, []]));
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, operation] of Object.entries(methods)) groups.get(operation.tags[0]).push(route(path, method, operation));
  const named = [...groups].map(([name, blocks]) => ({ name, id: `group-${name.toLowerCase().replace(/\W+/g, "-")}`, blocks }));
  $("routes").replaceChildren(...named.map(({ name, id, blocks }) => h("section", { "aria-labelledby": id }, h("h2", { id }, name), ...blocks)));
  $("groups").replaceChildren(...named.map(({ name, id }) => h("a", { href: `#${id}` }, name)));
}

$("filter").addEventListener("input", () => {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const block of document.querySelectorAll(".route")) {
    block.hidden = !words.every((word) => block.dataset.words.includes(word));
    count += Number(!block.hidden);
  }
  for (const section of document.querySelectorAll("#routes section")) section.hidden = !section.querySelector(".route:not([hidden])");
  $("none").hidden = count > 0;
  say(plural(count, "route"));
});

/** Opens the route that the address names. */
function openLinked() {
  const block = document.getElementById(location.hash.slice(1));
  if (block?.matches("details")) { block.open = true; block.scrollIntoView(); }
}

async function start() {
  try {
    api = await ask("openapi.json");
  } catch (problem) {
    $("routes").textContent = problem.message;
    return;
  }
  keyed = Boolean(api.security);
  $("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  try {
    const names = (await ask("v1/models")).data.map((entry) => entry.id);
    $("model").replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    $("model-part").hidden = names.length < 2;
  } catch (problem) { /* still loading, or the key is not entered yet: examples name no model, and the first one answers */ }
  drawGroups();
  openLinked();
}
const afterKey = start;
window.addEventListener("hashchange", openLinked);
start();
