// --- the page ----------------------------------------------------------------------------------------------------------------
const tabs = [...document.querySelectorAll("#tabs [role=tab]")];
const panelOf = (tab) => $(tab.getAttribute("aria-controls"));
const possible = {
  search: () => model.tasks.includes("embed"),
  lines: () => model.tasks.includes("embed"),
  both: () => otherModels().length > 0,
  count: () => true,
  pictures: () => Boolean(model.images) && (model.scoring !== null || model.tasks.includes("embed")),
  compare: () => model.tasks.includes("embed"),
  rerank: () => model.scoring !== null,
  classify: () => model.tasks.includes("classify"),
  label: () => model.tasks.includes("token_classify"),
  match: () => model.tasks.includes("token_embed"),
};

function choose(tab, focus = false) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    panelOf(other).hidden = other !== tab;
  }
  clear();
  if (focus) tab.focus();
  $("nothing").hidden = Boolean(tab) || !model;
  if (!tab) return;
  tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  remember(panelOf(tab));
  if (isLive(panelOf(tab))) perform(panelOf(tab));
  else if (panelOf(tab).id === "pictures") showExample();
}

/** Shows what the chosen model can do, with the fields and the tab of `state`, an address, or those that are there. */
function pickModel(state) {
  model = models.find((candidate) => candidate.id === $("model").value) ?? null;
  if (!model) return;
  const head = model.heads[model.tasks[0]];
  const labels = (model.heads.classify ?? model.heads.token_classify)?.labels.length;
  $("facts").replaceChildren(...[model.architecture, computedBy(model.evidence), model.tasks.includes("embed") || model.tasks[0] === "token_embed" ? plural(head.dim, "dimension") : labels ? plural(labels, "label") : null,
    `up to ${plural(model.max_tokens, "token")}`, model.scoring].filter(Boolean).map((fact) => h("li", {}, fact)));
  for (const part of document.querySelectorAll("[data-roles]")) part.hidden = !model.roles;
  const widths = model.heads.embed?.matryoshka ?? [];
  $("compare-width").hidden = !widths.length;
  $("compare-dimensions").replaceChildren(h("option", { value: "" }, "all"), ...widths.map((width) => h("option", { value: width }, String(width))));
  $("both-other").replaceChildren(...otherModels().map((other) => h("option", { value: other.id }, other.id)));
  $("count-limit").max = model.max_tokens;
  $("count-limit").placeholder = model.max_tokens;
  showEvidence();
  for (const tab of tabs) tab.hidden = !possible[panelOf(tab).id]();
  const open = tabs.filter((tab) => !tab.hidden), wanted = state?.panel ?? linked().panel;
  const tab = open.find((candidate) => panelOf(candidate).id === wanted) ?? open[0] ?? null;
  if (state && tab && panelOf(tab).id === state.panel) fill(panelOf(tab), state.values);
  pictureModelChanged();
  choose(tab);
}

/** Does what the address says. */
function obey() {
  const state = linked();
  if (models.some((candidate) => candidate.id === state.model)) $("model").value = state.model;
  pickModel(state);
}

/** Whether the page asks again and again until the models are there. */
let waits = false;

/** Says how far the server is with its models, of which /ready knows while it pulls or exports them. */
async function preparing() {
  let state = {};
  try { state = await (await fetch(addressOf("ready"), { cache: "no-store" })).json(); } catch (error) { /* it has no body while models are opened */ }
  const step = state.step ? `${state.step}${state.of ? `, step ${state.number} of ${state.of}` : ""}` : "opening the models";
  answer("The server prepares its models", h("p", { className: "note" }, `Now: ${step}${state.seconds ? `. ${plural(Math.round(state.seconds), "second")} so far` : ""}. This page opens by itself when that is done.`));
  if (!$("live").textContent.includes(step)) say(`The server prepares its models: ${step}.`);
}

async function start() {
  try {
    let docs;
    ({ models, keyed, docs, pdf } = await ask("playground.json"));
    $("docs").hidden = !docs;
  } catch (problem) {
    $("tabs").hidden = true;
    if (problem.status === 503) await preparing(); else failed(problem);
    waits = problem.status === 503 || (waits && problem.status === 0);  // between two processes it may be nobody for a moment
    if (waits) setTimeout(start, 1000);
    return;
  }
  $("tabs").hidden = false;
  $("answer").hidden = true;
  $("model").replaceChildren(...models.map((candidate) => h("option", { value: candidate.id }, candidate.id)));
  useLines(SAMPLE_NAME, linesOf($("lines-texts").value));
  obey();
}

for (const form of document.querySelectorAll("form[role=tabpanel]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (model) perform(form);
  });
  form.addEventListener("input", () => follow(form));
  form.addEventListener("change", (event) => { if (event.target.matches("select")) follow(form, 0); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
  });
}
$("tabs").addEventListener("click", (event) => { const tab = event.target.closest("[role=tab]"); if (tab) choose(tab); });
arrows($("tabs"), () => tabs.filter((tab) => !tab.hidden), (tab) => choose(tab, true));
$("model").addEventListener("change", () => pickModel());
window.addEventListener("hashchange", () => { if (models.length) obey(); });
$("stop").addEventListener("click", () => {
  stop();
  for (const button of document.querySelectorAll(".go")) button.removeAttribute("aria-disabled");
  $("answer").removeAttribute("aria-busy");
  $("progress").hidden = true;
  say("Stopped.");
});

/** A key was entered: what was refused for want of it is asked again. */
function afterKey() {
  const tab = tabs.find((candidate) => candidate.ariaSelected === "true");
  if (!model) start();
  else if (tab && isLive(panelOf(tab))) perform(panelOf(tab));
}
$("link").addEventListener("click", () => {
  const tab = tabs.find((candidate) => candidate.ariaSelected === "true");
  if (!tab) return;
  const { hash, whole } = linkOf(panelOf(tab));
  history.replaceState(null, "", hash);
  copyText(addressOf(hash).href, $("link"), $("link-text"));
  if (!whole) say("The texts are too long for a link: it has the tab and the model only.");
});
$("search-file").addEventListener("change", async () => { const [file] = $("search-file").files; $("search-file").value = ""; if (file) await running(() => openFile(file)); });
acceptDrops($("search"), $("search-drop"), ([file]) => openFile(file));
start();
