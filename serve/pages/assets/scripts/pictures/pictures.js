// --- pictures ----------------------------------------------------------------------------------------------------------------
/** What was dropped, in order: {number, name, url, width, height, facts, refused, vectors, card}. `facts` says how the model reads it, `refused`
    why the server does not; `vectors` are kept by model. Nothing leaves this tab but in requests to the server. */
let gallery = [];
/** The picture that stands in the place of the query's words, or beside them. */
let asking = null;
let lastNumber = 0;
/** Whether the gallery is as the page opened; then it shows a search in the sample page. */
let untouched = true;
const MOST_PICTURES = 64;
/** Of one request of a search: small enough that progress is seen, large enough that batches fill. */
const GROUP_ITEMS = 8, GROUP_CHARACTERS = 8e6;

const dataUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Problem(0, `“${blob.name ?? "This file"}” cannot be read.`));
  reader.readAsDataURL(blob);
});

/** Adds files in their order: pictures as they are, PDFs page by page as the server draws them. Throws Problem. */
async function add(files) {
  for (const item of gallery.filter((other) => other.isExample)) discard(item);
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

async function addPicture(name, url, { isExample = false } = {}) {
  if (gallery.length >= MOST_PICTURES) throw new Problem(0, `This page holds ${MOST_PICTURES} pictures; remove some first.`);
  const item = { number: (lastNumber += 1), name: name || "picture", url, isExample, vectors: new Map() };
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
      h("button", { type: "button", className: "plain", "aria-label": `Ask with it: ${item.name}`, title: "Search for what is like this picture", onclick: () => askWith(item) }, "Ask with it"),
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

/** Takes a picture out of the gallery, and with the last one what was found in it. */
function discard(item) {
  untouched = false;
  gallery = gallery.filter((other) => other !== item);
  item.card.remove();
  if (asking === item) askWith(null);
  $("drop-note").hidden = gallery.length > 0;
  if (!gallery.length) clear();
}

function remove(item) {
  const at = gallery.indexOf(item), next = gallery[at + 1] ?? gallery[at - 1];
  discard(item);
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

/** The tab opens with its example answered: a search in the sample page, which gives way to the first picture of one's own. */
async function showExample() {
  if (!untouched || gallery.some((item) => !item.isExample)) return;
  if (!gallery.length) await addPicture("Sample page", samplePage(), { isExample: true });
  perform($("pictures"));
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
$("sample").addEventListener("click", () => running(async () => {
  const example = gallery.find((item) => item.isExample);
  untouched = false;
  if (example) example.isExample = false;  // it is there already, and stays beside pictures of one's own
  else await addPicture("Sample page", samplePage());
}));
$("asking-remove").addEventListener("click", () => askWith(null));
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if ($("pictures").hidden || !files.length) return;
  event.preventDefault();
  running(() => add(files));
});
acceptDrops($("pictures"), $("drop"), add);
