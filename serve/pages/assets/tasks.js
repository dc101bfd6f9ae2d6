// --- answers -----------------------------------------------------------------------------------------------------------------
function answer(title, ...content) {
  const place = $("answer");
  place.className = "answer";
  place.replaceChildren(h("h2", {}, title), ...content.filter((part) => part != null));
  place.hidden = false;
}

function failed(problem) {
  const place = $("answer");
  place.className = "answer problem";
  place.replaceChildren(h("h2", {}, problem.status ? `Refused (${problem.status})` : "Not sent"), h("p", {}, problem.message),
    problem.field ? h("p", { className: "quiet" }, `Field: ${problem.field}`) : "");
  place.hidden = false;
  say(problem.message);
}

function bars(items, ranked = true) {
  const scores = items.map((item) => item.score);
  const low = Math.min(0, ...scores), high = Math.max(low === 0 && Math.max(...scores) <= 1 ? 1 : -Infinity, ...scores);
  return h(ranked ? "ol" : "ul", { className: ranked ? "bars" : "bars unranked" }, ...items.map((item, index) =>
    h("li", {}, ranked ? h("span", { className: "place" }, String(index + 1)) : null, h("span", { className: "what" }, item.text), h("span", { className: "score" }, show(item.score)),
      h("span", { className: "bar", "aria-hidden": "true" }, h("i", { vars: { w: high > low ? (item.score - low) / (high - low) : 1 } })),
      item.from ? h("span", { className: "from" }, item.from) : null)));
}

const runs = {
  pictures: searchPictures,

  async compare() {
    const texts = [$("compare-a").value, $("compare-b").value];
    const roles = model.roles ? [$("compare-role-a").value, $("compare-role-b").value] : ["", ""];
    const dimensions = Number($("compare-dimensions").value) || undefined;
    const body = (input, role) => ({ model: model.id, input, ...(role ? { input_type: role } : {}), ...(dimensions ? { dimensions } : {}) });
    const answers = roles[0] === roles[1] ? [await ask("v1/embeddings", body(texts, roles[0]))]
      : [await ask("v1/embeddings", body([texts[0]], roles[0])), await ask("v1/embeddings", body([texts[1]], roles[1]))];
    const [a, b] = answers.flatMap((response) => response.data.map((item) => item.embedding));
    const lengths = [a, b].map((vector) => Math.sqrt(dot(vector, vector)));
    const cosine = dot(a, b) / Math.max(lengths[0] * lengths[1], Number.MIN_VALUE);
    const meter = h("div", { className: "gauge", role: "meter", "aria-label": "Cosine similarity", "aria-valuemin": -1, "aria-valuemax": 1, "aria-valuenow": cosine.toFixed(4), vars: { at: clamp(cosine, -1, 1) } });
    answer("Cosine similarity", h("div", { className: "big", id: "cosine" }, show(cosine)), meter,
      h("div", { className: "ticks", "aria-hidden": "true" }, h("span", {}, "−1 opposite"), h("span", {}, "0 unrelated"), h("span", {}, "1 the same")),
      h("p", { className: "note" }, `${plural(a.length, "dimension")} a text, lengths ${lengths.map((length) => length.toFixed(3)).join(" and ")}. Models use only part of this scale: compare one pair with another, not with a fixed bound.`));
    return `Cosine similarity ${cosine.toFixed(4)}`;
  },

  async rerank() {
    const documents = $("rerank-documents").value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (!documents.length) throw new Problem(0, "Write at least one document, each on a line of its own.");
    const response = await ask("rerank", { model: model.id, query: $("rerank-query").value, documents, top_n: Number($("rerank-top").value) || 0 });
    const items = response.results.map((result) => ({ text: documents[result.index], score: result.relevance_score, from: `line ${result.index + 1}` }));
    const meaning = { "bi-encoder": "Scores are cosines.", "late-interaction": "Scores are sums over the query's tokens, so longer queries score higher.", "cross-encoder": "Scores compare documents for one query." }[model.scoring];
    answer(`${plural(items.length, "document")}, best first`, bars(items), h("p", { className: "note" }, meaning));
    return `Best: line ${response.results[0].index + 1}, score ${response.results[0].relevance_score.toFixed(4)}`;
  },

  async classify() {
    const raw = $("classify-activation").value === "no";
    const response = await ask("classify", { model: model.id, input: $("classify-text").value, ...(raw ? { use_activation: false } : {}) });
    const { probs, label } = response.data[0];
    const names = model.heads.classify.labels;
    const items = probs.map((score, index) => ({ text: names[index] ?? `label ${index}`, score })).sort((a, b) => b.score - a.score);
    const most = items.slice(0, 12);
    answer(raw ? "Logits" : "Label", h("div", { className: "big", id: "label-best" }, label ?? items[0].text), bars(most, false),
      items.length > most.length ? h("p", { className: "note" }, `and ${items.length - most.length} more labels`) : null);
    return `${label ?? items[0].text}, ${items[0].score.toFixed(4)}`;
  },

  async label() {
    const text = $("label-text").value;
    const head = model.heads.token_classify;
    const response = await ask("pooling", { model: model.id, task: "token_classify", input: text });
    const rows = response.data[0].data.map((row) => (Array.isArray(row) ? row : [row]));
    const tokens = fitted(await tokenize(text), head, rows.length);
    const wide = (rows[0]?.length ?? 0) > 1;
    const most = Math.max(...rows.map((row) => Math.abs(row[0])), Number.MIN_VALUE);
    const views = tokens.map((token, index) => {
      const row = rows[index], at = row.indexOf(Math.max(...row));
      if (!wide) return tokenView(token, { weight: Math.abs(row[0]) / most, className: "told" }, h("small", {}, row[0].toFixed(3)));
      const name = head.labels[at] ?? `label ${at}`, stem = name.replace(/^[BIESLU]-/, "");
      const outside = stem === "O";
      const hue = `oklch(from var(--heat) l c calc(h + ${137.5 * [...new Set(head.labels.map((label) => label.replace(/^[BIESLU]-/, "")))].indexOf(stem)}))`;
      return tokenView(token, { weight: outside ? 0 : clamp(row[at], 0.25, 1), hue, className: outside ? "" : "told", properties: { title: `${name} ${row[at].toFixed(4)}` } }, h("small", {}, outside ? "·" : name));
    });
    answer(wide ? "A label for each token" : "A weight for each token", h("ul", { className: "tokens", id: "labelled" }, ...views),
      h("p", { className: "note" }, wide ? "The deeper the colour, the surer the model. “·” marks tokens outside of any label." : "The deeper the colour, the larger the weight."));
    return `${plural(tokens.length, "token")} ${wide ? "labelled" : "weighed"}`;
  },

  async match() {
    const texts = { query: $("match-query").value, document: $("match-document").value };
    const plain = !model.roles || $("match-preparation").value === "plain";
    const side = {};
    for (const name of ["query", "document"]) {
      const role = plain ? null : model.roles[name];
      const response = await ask("pooling", { model: model.id, task: "token_embed", input: texts[name], ...(plain ? {} : { input_type: name }) });
      const vectors = response.data[0].data;
      const tokens = prepared(await tokenize((role?.prefix ?? "") + texts[name]), role, name);
      side[name] = { vectors, tokens: fitted(tokens, model.heads.token_embed, vectors.length) };
    }
    const { query, document: doc } = side;
    const table = query.vectors.map((row) => doc.vectors.map((column) => dot(row, column)));
    const best = table.map((row) => row.indexOf(Math.max(...row)));
    const score = table.reduce((sum, row, index) => sum + row[best[index]], 0);
    const served = model.scoring === "late-interaction" ? (await ask("score", { model: model.id, text_1: texts.query, text_2: texts.document })).data[0].score : null;
    draw(query.tokens, doc.tokens, table, best, score, served);
    return `MaxSim ${score.toFixed(4)}`;
  },
};

/** The heat map: pick a query token and the document shows where it looks; the table below shows all of them at once. */
function draw(query, doc, table, best, score, served) {
  const values = table.flat();
  const low = values.reduce((a, b) => Math.min(a, b), 1), high = values.reduce((a, b) => Math.max(a, b), -1);
  const weight = (value) => Math.pow((value - low) / Math.max(high - low, 1e-6), 1.5).toFixed(3);  // the power leaves the crowd in the middle pale
  const columns = doc.map((token) => tokenView(token));
  const line = h("p", { className: "note", id: "match-line" });
  const rows = table.map((row, at) => h("tr", {}, h("th", { scope: "row" }, query[at].text),
    ...row.map((value, index) => h("td", { className: index === best[at] ? "best" : "", vars: { w: weight(value) }, title: `${query[at].text} → ${doc[index].text}  ${value.toFixed(3)}` }))));
  const buttons = query.map((token, at) => tokenView(token, { tag: "button", weight: 0, properties: { type: "button", "aria-pressed": "false", onclick: () => pick(at) } }));
  function pick(at) {
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === at)));
    rows.forEach((row, index) => row.classList.toggle("picked", index === at));
    columns.forEach((column, index) => {
      column.style.setProperty("--w", weight(table[at][index]));
      column.classList.toggle("best", index === best[at]);
    });
    const text = `“${query[at].text}” is answered best by “${doc[best[at]].text}”: ${show(table[at][best[at]])}`;
    line.textContent = text;
    return text;
  }
  const same = served != null && Math.abs(served - score) <= 1e-3 * Math.max(1, Math.abs(score));
  answer("MaxSim", h("div", { className: "big", id: "maxsim" }, show(score)),
    served == null ? null : h("p", { className: "quiet", id: "same" }, same ? `The same as /score: ${show(served)}` : `/score prepares both sides as plain text: ${show(served)}`),
    h("h3", {}, "Query"), h("div", { className: "tokens", id: "query-tokens", role: "group", "aria-label": "Query tokens: pick one to see what answers it" }, ...buttons),
    h("h3", {}, "Document"), h("ul", { className: "tokens", id: "document-tokens" }, ...columns), line,
    h("h3", {}, "All tokens"), h("div", { className: "legend", "aria-hidden": "true" }, h("span", {}, low.toFixed(2).replace("-", "−")), h("i"), h("span", {}, high.toFixed(2)), h("span", {}, "outlined: the best of each row")),
    h("div", { className: "map", tabIndex: 0, role: "region", "aria-label": "Similarity of every query token (rows) with every document token (columns)" },
      h("table", { id: "heat" }, h("thead", {}, h("tr", {}, h("td", { vars: { w: 0 } }), ...doc.map((token) => h("th", { scope: "col" }, h("span", {}, token.text))))), h("tbody", {}, ...rows))));
  $("heat").querySelector("thead td").style.background = "none";
  $("query-tokens").addEventListener("click", () => say(line.textContent));
  // First shown: the surest word that another word answers; failing that, the surest token.
  const word = (token) => !token.special && /\p{L}{3}/u.test(token.text);
  const surest = query.map((token, at) => table[at][best[at]] - (word(token) && word(doc[best[at]]) && token.text !== doc[best[at]].text ? 0 : 1e3));
  pick(surest.indexOf(Math.max(...surest)));
}
