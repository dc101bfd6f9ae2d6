// --- the page ----------------------------------------------------------------------------------------------------------------
const tabs = [...document.querySelectorAll("[role=tab]")];
const panelOf = (tab) => $(tab.getAttribute("aria-controls"));
const possible = {
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
  if (tab) history.replaceState(null, "", "#" + panelOf(tab).id);
  $("nothing").hidden = Boolean(tab) || !model;
}

function stop() {
  turn += 1;
  controller.abort();
  controller = new AbortController();
}

/** Shows that something runs, once it takes longer than a moment. */
function begin() {
  working("Working …");
  return setTimeout(() => { $("progress").hidden = false; }, 400);
}

function end(slow) {
  clearTimeout(slow);
  $("progress").hidden = true;
}

function clear() {
  stop();
  $("answer").hidden = $("requests").hidden = $("progress").hidden = true;
  forget();
  say("");
}

function pickModel() {
  model = models.find((candidate) => candidate.id === $("model").value) ?? null;
  if (!model) return;
  const head = model.heads[model.tasks[0]];
  const labels = (model.heads.classify ?? model.heads.token_classify)?.labels.length;
  $("facts").replaceChildren(...[model.architecture, model.tasks.includes("embed") || model.tasks[0] === "token_embed" ? plural(head.dim, "dimension") : labels ? plural(labels, "label") : null,
    `up to ${plural(model.max_tokens, "token")}`, model.scoring].filter(Boolean).map((fact) => h("li", {}, fact)));
  for (const part of document.querySelectorAll("[data-roles]")) part.hidden = !model.roles;
  const widths = model.heads.embed?.matryoshka ?? [];
  $("compare-width").hidden = !widths.length;
  $("compare-dimensions").replaceChildren(h("option", { value: "" }, "all"), ...widths.map((width) => h("option", { value: width }, String(width))));
  for (const tab of tabs) tab.hidden = !possible[panelOf(tab).id]();
  const open = tabs.filter((tab) => !tab.hidden);
  pictureModelChanged();
  choose(open.find((tab) => "#" + panelOf(tab).id === location.hash) ?? open[0] ?? null);
}

async function start() {
  try {
    let docs;
    ({ models, keyed, docs, pdf } = await ask("playground.json"));
    $("docs").hidden = !docs;
  } catch (problem) {
    $("tabs").hidden = true;
    failed(problem);
    if (problem.status === 503) setTimeout(start, 1000);  // models are still being loaded
    return;
  }
  $("tabs").hidden = false;
  $("answer").hidden = true;
  $("model").replaceChildren(...models.map((candidate) => h("option", { value: candidate.id }, candidate.id)));
  pickModel();
}

for (const form of document.querySelectorAll("form[role=tabpanel]")) {
  const button = form.querySelector(".go");
  let busy = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy || !model) return;
    busy = true;
    button.setAttribute("aria-disabled", "true");
    forget();
    const slow = begin();
    const begun = performance.now();
    try {
      const summary = await runs[form.id]();
      say(`${summary}. ${(performance.now() - begun).toFixed(0)} milliseconds.`);
    } catch (problem) {
      if (problem instanceof Problem) failed(problem);
      else if (!(problem instanceof Stale)) throw problem;
    } finally {
      end(slow);
      busy = false;
      button.removeAttribute("aria-disabled");
    }
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
  });
}
$("tabs").addEventListener("click", (event) => { const tab = event.target.closest("[role=tab]"); if (tab) choose(tab); });
$("tabs").addEventListener("keydown", (event) => {
  const open = tabs.filter((tab) => !tab.hidden), at = open.indexOf(document.activeElement);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: open.length - 1 }[event.key];
  if (next === undefined || at < 0) return;
  event.preventDefault();
  choose(open[(next + open.length) % open.length], true);
});
$("model").addEventListener("change", pickModel);
$("stop").addEventListener("click", () => {
  stop();
  $("progress").hidden = true;
  say("Stopped.");
});

const KEY = "poolrt key", THEME = "poolrt theme";
const keep = (store, name, value) => { try { value ? store().setItem(name, value) : store().removeItem(name); } catch (error) { /* storage is switched off: kept in the page only */ } };
const kept = (store, name) => { try { return store().getItem(name); } catch (error) { return null; } };
const session = () => sessionStorage, local = () => localStorage;
function keyChanged() {
  keep(session, KEY, $("key").value);
  $("key-button").dataset.set = $("key").value ? "yes" : "no";
}
$("key").value = kept(session, KEY) ?? "";
keyChanged();
$("key").addEventListener("input", keyChanged);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("key-sheet").open = false;
  $("key-button").focus();
  if (!model) start();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && $("key-sheet").open) { $("key-sheet").open = false; $("key-button").focus(); } });
document.addEventListener("click", (event) => { if (!$("key-sheet").contains(event.target)) $("key-sheet").open = false; });

const system = matchMedia("(prefers-color-scheme: dark)");
const preferred = () => (system.matches ? "dark" : "light");
const painted = () => document.documentElement.dataset.theme ?? preferred();
function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  $("theme").textContent = painted() === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Change to ${$("theme").textContent.toLowerCase()} colours`);
}
$("theme").addEventListener("click", () => {
  const theme = painted() === "dark" ? "light" : "dark";
  const chosen = theme === preferred() ? null : theme;
  keep(local, THEME, chosen);
  paint(chosen);
});
system.addEventListener("change", () => paint(kept(local, THEME)));
paint(kept(local, THEME));
start();
