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
