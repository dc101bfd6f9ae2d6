// --- one task a tab ---------------------------------------------------------------------------------------------------------
const runs = {
  pictures: searchPictures,
  lines: compareLines,
  search: searchFile,
  both: runBoth,
  count: countTokens,

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
    const documents = linesOf($("rerank-documents").value);
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
