// --- pictures ----------------------------------------------------------------------------------------------------------------
/** What was dropped, in order: {number, name, url, width, height, facts, refused, vectors, card}. `facts` says how the model reads it, `refused`
    why the server does not; `vectors` are kept by model. Nothing leaves this tab but in requests to the server. */
let gallery = [];
/** The picture that stands in the place of the query's words, or beside them. */
let asking = null;
let lastNumber = 0;
const MOST_PICTURES = 64;
/** Of one request of a search: small enough that progress is seen, large enough that batches fill. */
const GROUP_ITEMS = 8, GROUP_CHARACTERS = 8e6;

/** Says what runs: a share of it, or nothing that can be counted. */
function working(text, done, total) {
  const bar = $("progress-bar");
  $("progress-text").textContent = text;
  if (total) { bar.max = total; bar.value = done; } else bar.removeAttribute("value");
}

const dataUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Problem(0, `“${blob.name ?? "This file"}” cannot be read.`));
  reader.readAsDataURL(blob);
});

/** Adds files in their order: pictures as they are, PDFs page by page as the server draws them. Throws Problem. */
async function add(files) {
  for (const file of files) {
    if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) await addPages(file);
    else if (file.type.startsWith("image/")) await addPicture(file.name, await dataUrl(file));
    else throw new Problem(0, `“${file.name}” is neither a picture nor a PDF.`);
  }
}

async function addPages(file) {
  if (!pdf) throw new Problem(501, "This server cannot draw the pages of a PDF: pip install 'poolrt[pdf]' where it runs, then start it again. Pictures of pages work as they are.");
  const range = /^\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?$/.exec($("pages").value);
  if (!range) throw new Problem(0, "Write the pages of a PDF as 3 or 1-4.");
  const first = Number(range[1]), last = Number(range[2] ?? range[1]), url = await dataUrl(file);
  for (let page = first, count = last; page <= Math.min(last, count); page++) {
    working(`Page ${page} of “${file.name}” …`, page - first, Math.min(last, count) - first + 1);
    const drawn = await ask("playground/pdf", { pdf: url, page });
    count = drawn.pages;
    await addPicture(`${file.name}, page ${page} of ${count}`, drawn.image);
  }
}

async function addPicture(name, url) {
  if (gallery.length >= MOST_PICTURES) throw new Problem(0, `This page holds ${MOST_PICTURES} pictures; remove some first.`);
  const item = { number: (lastNumber += 1), name: name || "picture", url, vectors: new Map() };
  gallery.push(item);
  item.card = card(item);
  $("gallery").append(item.card);
  $("drop-note").hidden = true;
  say(`Added ${item.name}.`);
  describe(item);
}

/** Asks how the model reads a picture, one after the other: a page of megabytes for each. */
let described = Promise.resolve();
function describe(item) {
  const wanted = model;
  item.facts = item.refused = null;
  caption(item);
  described = described.then(async () => {
    if (wanted !== model || !gallery.includes(item) || !model?.images) return;
    try {
      item.facts = await ask("playground/picture", { model: wanted.id, image: item.url }, { steady: true });
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      item.refused = problem.message;
    }
    if (wanted === model) caption(item);
  });
}

function card(item) {
  const picture = h("img", { src: item.url, alt: "", decoding: "async" });
  picture.addEventListener("load", () => { item.width ??= picture.naturalWidth; item.height ??= picture.naturalHeight; caption(item); });
  picture.addEventListener("error", () => { picture.hidden = true; item.unseen = true; });  // TIFF, for one: the server reads it all the same
  item.marks = h("div", { className: "marks", "aria-hidden": "true" });
  item.size = h("span", {});
  item.cut = h("span", {});
  return h("li", {},
    h("div", { className: "frame" }, h("div", { className: "shown" }, picture, item.marks)),
    h("b", { title: item.name }, item.name), h("small", {}, item.size, item.cut),
    h("div", { className: "acts" },
      h("button", { type: "button", className: "plain", "aria-label": `Ask with ${item.name}`, title: "Search for what is like this picture", onclick: () => askWith(item) }, "Ask with it"),
      h("button", { type: "button", className: "plain", "aria-label": `Remove ${item.name}`, onclick: () => remove(item) }, "Remove")));
}

/** What is known of a picture by now: its size, then how the model reads it. */
function caption(item) {
  const { facts } = item;
  const width = facts?.width ?? item.width, height = facts?.height ?? item.height;
  item.size.textContent = width ? `${width} × ${height}` : "";
  item.cut.textContent = item.refused ?? (facts ? cutting(facts) : model?.images ? "…" : "");
  item.card.classList.toggle("refused", Boolean(item.refused));
  const parts = (facts?.regions ?? []).filter((region) => region.some((edge, at) => edge !== (at < 2 ? 0 : 1)));
  item.marks.replaceChildren(...parts.map(([left, top, right, bottom]) => h("i", { className: parts.length > 1 ? "tile" : "crop", vars: { left, top, wide: right - left, tall: bottom - top } })));
}

/** How a model reads a picture, in a line: "748 tokens, 34 × 22 patches". */
function cutting(facts) {
  if (facts.apart) return facts.regions[0].some((edge, at) => edge !== (at < 2 ? 0 : 1)) ? "one vector, of the middle" : "one vector";
  const tokens = plural(facts.tokens, "token");
  const tiles = facts.regions.filter((region) => region.some((edge, at) => edge !== (at < 2 ? 0 : 1))).length;
  if (!tiles) return `${tokens}, ${facts.grids[0][0]} × ${facts.grids[0][1]} patches`;
  return `${tokens}, ${plural(tiles, "tile")}${facts.regions.length > tiles ? " and the whole" : ""}`;
}

function remove(item) {
  const at = gallery.indexOf(item), next = gallery[at + 1] ?? gallery[at - 1];
  gallery = gallery.filter((other) => other !== item);
  item.card.remove();
  if (asking === item) askWith(null);
  $("drop-note").hidden = gallery.length > 0;
  say(`Removed ${item.name}.`);
  (next ? next.card.querySelector("button:last-child") : $("sample")).focus();
}

function askWith(item) {
  asking = item;
  showAsking();
  say(item ? `The query is ${item.name}.` : "The query is words only.");
  $(item ? "asking-remove" : "pictures-query").focus();
}

/** A model with one vector for a text and one for a picture (CLIP) takes either as its query; others read both together. */
function showAsking() {
  const apart = Boolean(model?.images.apart);
  $("asking").hidden = !asking;
  $("pictures-query").disabled = Boolean(asking) && apart;
  if (!asking) return;
  $("asking-picture").src = asking.url;
  $("asking-name").textContent = `${asking.name}${apart ? "" : ", with the words"}`;
}

// --- search ------------------------------------------------------------------------------------------------------------------
const part = (item) => ({ type: "image_url", image_url: { url: item.url } });
const likeness = (a, b) => dot(a, b) / Math.max(Math.sqrt(dot(a, a) * dot(b, b)), Number.MIN_VALUE);

async function searchPictures() {
  const words = $("pictures-query").value.trim();
  if (!words && !asking) throw new Problem(0, "Write a query, or ask with one of the pictures.");
  const items = gallery.filter((item) => !item.refused && item !== asking);
  const texts = $("pictures-texts").value.split("\n").map((line) => line.trim()).filter(Boolean).map((text) => ({ text }));
  const candidates = [...items, ...texts];
  if (!candidates.length) throw new Problem(0, asking ? "Add another picture to compare it with." : "Drop, paste or choose a picture first, or add the sample page.");
  const query = { words: asking && model.images.apart ? "" : words, picture: asking };
  const scores = model.tasks.includes("embed") ? await byVectors(query, candidates) : await byScores(query, candidates);
  const ranked = candidates.map((item, at) => ({ item, score: scores[at] })).sort((a, b) => b.score - a.score);
  const left = gallery.filter((item) => item.refused).length;
  const note = { "late-interaction": "Scores are sums over the query's tokens, so longer queries score higher.", "cross-encoder": "The model read the query beside each of them." }[model.scoring] ?? "Scores are cosines.";
  const seeing = model.scoring === "late-interaction" && query.words && !query.picture;
  const place = h("div", { id: "seen" });
  const buttons = [];
  const see = async (item, button) => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    await showHeat(place, query.words, item);
  };
  const rows = ranked.map(({ item, score }, at) => h("li", {}, result(item, score, at, seeing ? see : null, buttons)));
  answer(`${plural(ranked.length, "result")}, best first`, h("ol", { className: "ranking", id: "ranking" }, ...rows), place,
    h("p", { className: "note" }, note, left ? ` ${plural(left, "picture")} that the server refuses ${left === 1 ? "is" : "are"} left out.` : ""));
  const best = ranked.find(({ item }) => item.url);
  if (seeing && best) await see(best.item, buttons[ranked.filter(({ item }) => item.url).indexOf(best)]);
  return `Best: ${ranked[0].item.name ?? ranked[0].item.text}, score ${ranked[0].score.toFixed(4)}`;
}

/** One of the ranked: a picture is a button where the model can show what it saw. */
function result(item, score, at, see, buttons) {
  const inside = [item.url ? h("img", { src: item.url, alt: "" }) : h("span", { className: "words" }, item.text),
    h("span", { className: "place" }, String(at + 1)), h("span", { className: "what" }, item.name ?? "text"), h("span", { className: "score" }, show(score))];
  if (!see || !item.url) return h("div", { className: "hit" }, ...inside);
  const button = h("button", { type: "button", className: "hit", "aria-pressed": "false", title: "Show where the answer lies" }, ...inside);
  button.addEventListener("click", () => running(() => see(item, button)));
  buttons.push(button);
  return button;
}

/** Vectors of the query and of all candidates, which are kept: the next query asks for one vector only. */
async function byVectors(query, candidates) {
  const vectors = [];
  for (const [at, item] of candidates.entries()) {
    working(`${at} of ${plural(candidates.length, "result")} …`, at, candidates.length);
    let vector = item.vectors?.get(model.id);
    if (!vector) {
      vector = await vectorOf({ words: item.text ?? "", picture: item.url ? item : null }, "document");
      item.vectors?.set(model.id, vector);
    }
    vectors.push(vector);
  }
  const asked = await vectorOf(query, "query");
  return vectors.map((vector) => likeness(asked, vector));
}

/** The vector of words, a picture or both. Words alone are prepared as the side of a search that they are, where the model knows one; else as
    a message, like pictures, where it has a template for messages. */
async function vectorOf({ words, picture }, side) {
  const { sides, chat } = model.images;
  const content = [...(picture ? [part(picture)] : []), ...(words ? [{ type: "text", text: words }] : [])];
  const known = !picture && sides.includes(side);
  const input = picture || (chat && !known) ? { messages: [{ role: "user", content }] } : { input: words };
  const response = await ask("v1/embeddings", { model: model.id, ...input, ...(known ? { input_type: side } : {}) });
  return response.data[0].embedding;
}

async function byScores(query, candidates) {
  const asked = query.picture ? { content: [part(query.picture), ...(query.words ? [{ type: "text", text: query.words }] : [])] } : query.words;
  const scores = [];
  let at = 0;
  while (at < candidates.length) {
    working(`${at} of ${plural(candidates.length, "result")} …`, at, candidates.length);
    const group = [];
    for (let size = 0; at < candidates.length && group.length < GROUP_ITEMS; at++) {
      size += candidates[at].url?.length ?? 0;
      if (group.length && size > GROUP_CHARACTERS) break;
      group.push(candidates[at]);
    }
    const response = await ask("rerank", { model: model.id, query: asked, documents: group.map((item) => (item.url ? { content: [part(item)] } : item.text)) });
    const found = [];
    for (const { index, relevance_score } of response.results) found[index] = relevance_score;
    scores.push(...found);
  }
  return scores;
}

// --- where files come from ---------------------------------------------------------------------------------------------------
/** Runs a step outside of a form's own button: shows that it runs, and what the server says against it. */
async function running(step) {
  const slow = begin();
  try {
    await step();
  } catch (problem) {
    if (problem instanceof Problem) failed(problem);
    else if (!(problem instanceof Stale)) throw problem;
  } finally {
    end(slow);
  }
}

const ABOUT = {
  "late-interaction": "Each word of the query looks for the patch of the page that answers it. Drop pages, ask, and see where the answer lies.",
  "cross-encoder": "The model reads the query beside each picture and says how well the picture answers it.",
};
function pictureModelChanged() {
  if (!model.images) return;
  $("pictures-about").textContent = ABOUT[model.scoring] ?? "Words and pictures become vectors of one space. The pictures whose vectors are closest to the query's come first.";
  showAsking();
  for (const item of gallery) describe(item);
}

$("files").addEventListener("change", async () => { const files = [...$("files").files]; $("files").value = ""; await running(() => add(files)); });
$("sample").addEventListener("click", () => running(() => addPicture("Sample page", samplePage())));
$("asking-remove").addEventListener("click", () => askWith(null));
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if ($("pictures").hidden || !files.length) return;
  event.preventDefault();
  running(() => add(files));
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if ($("pictures").hidden || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") running(() => add([...event.dataTransfer.files]));
  });
}
