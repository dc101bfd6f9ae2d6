// --- two models side by side -------------------------------------------------------------------------------------------------
const ROUNDS = 5;
/** What both models can do, in the order that says most of them. */
const shared = (a, b) => ["embed", "classify", "score"].find((task) => [a, b].every((one) => (task === "score" ? one.scoring !== null : one.tasks.includes(task)))) ?? null;
const middleOf = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** One request of a model: rows of numbers, one for each text. */
async function outputs(task, name, texts) {
  if (task === "embed") return embedded(texts, { name, batch: texts.length });
  if (task === "classify") return (await ask("classify", { model: name, input: texts })).data.map((item) => item.probs);
  const response = await ask("rerank", { model: name, query: texts[0], documents: texts.slice(1) }), scores = [];
  for (const { index, relevance_score } of response.results) scores[index] = [relevance_score];
  return scores;
}

async function runBoth() {
  const other = models.find((candidate) => candidate.id === $("both-other").value);
  const texts = linesOf($("both-texts").value), task = other && shared(model, other);
  if (!task) throw new Problem(0, "Choose a model that does the same as the first.");
  if (texts.length < 2) throw new Problem(0, "Write at least two lines.");
  const sides = [model, other], times = [[], []], rows = [];
  for (let round = 0; round <= ROUNDS; round++) {  // turn by turn, so that both meet the same moments; the first round warms up
    for (const [at, side] of sides.entries()) {
      working(`${side.id} …`, 2 * round + at, 2 * ROUNDS + 2);
      const begun = performance.now(), result = await outputs(task, side.id, texts);
      if (round) times[at].push(performance.now() - begun);
      rows[at] = result;
    }
  }
  const medians = times.map(middleOf), ratio = medians[0] / medians[1];
  const drift = driftOf(task, rows, task === "score" ? texts.slice(1) : texts);
  const column = (side, at) => h("td", { className: "amount" }, side[at]);
  const facts = [["Computed by", sides.map((side) => computedBy(side.evidence))], ["Size", sides.map((side) => megabytes(side.evidence.bytes))],
    ["Time of a request", medians.map((ms) => `${ms.toFixed(1)} ms`)], ["Range", times.map((values) => `${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)} ms`)]];
  const faster = ratio >= 1 ? other.id : model.id;
  answer("Side by side", h("div", { className: "pair" },
    h("div", {}, h("div", { className: "big" }, `${Math.max(ratio, 1 / ratio).toFixed(2)}×`), h("p", { className: "quiet", id: "both-speed" }, `${faster} is faster`)),
    h("div", {}, h("div", { className: "big", id: "both-drift" }, drift.big), h("p", { className: "quiet" }, drift.meaning))),
  h("div", { className: "wide" }, h("table", { className: "plain-table", id: "both-facts" }, h("thead", {}, h("tr", {}, h("td", {}), ...sides.map((side) => h("th", { scope: "col", className: "amount" }, side.id)))),
    h("tbody", {}, ...facts.map(([name, values]) => h("tr", {}, h("th", { scope: "row" }, name), column(values, 0), column(values, 1)))))),
  h("h3", {}, "Line by line"), h("div", { className: "wide" }, h("table", { className: "plain-table", id: "both-lines" }, h("thead", {}, h("tr", {}, ...drift.names.map((name, at) => h("th", { scope: "col", className: at ? "amount" : "" }, name)))),
    h("tbody", {}, ...drift.lines.map(([text, ...values]) => h("tr", {}, h("th", { scope: "row" }, text), ...values.map((value) => h("td", { className: "amount" }, value))))))),
  h("p", { className: "note" }, `The median of ${ROUNDS} requests with ${plural(texts.length, "line")} each, as this browser saw them, the network included. ${drift.note}`));
  return `${faster} is ${Math.max(ratio, 1 / ratio).toFixed(2)} times faster; ${drift.meaning}: ${drift.big}`;
}

/** How far the second model is from the first: {big, meaning, names, lines, note}. */
function driftOf(task, [a, b], texts) {
  if (task === "embed" && a[0].length === b[0].length) {
    const cosines = a.map((row, at) => dot(unit(row), unit(b[at])));
    return { big: show(Math.min(...cosines)), meaning: "least cosine of a line's two vectors", names: ["Line", "Cosine"], lines: texts.map((text, at) => [text, cosines[at].toFixed(6).replace("-", "−")]), note: "1 is no drift at all. Models of different checkpoints have spaces of their own, whose vectors say nothing of each other." };
  }
  if (task === "embed") {  // widths differ: only what each says of pairs can be compared
    const pairs = (rows) => { const units = rows.map(unit); return units.flatMap((row, at) => units.slice(at + 1).map((column) => dot(row, column))); };
    const [one, two] = [pairs(a), pairs(b)], near = (rows, at) => { const units = rows.map(unit); return units.map((row, other) => [dot(row, units[at]), other]).filter(([, other]) => other !== at).sort((x, y) => y[0] - x[0])[0][1] + 1; };
    return { big: show(correlation(ranksOf(one), ranksOf(two))), meaning: "rank correlation of the similarities", names: ["Line", "Closest in the first", "in the second"], lines: texts.map((text, at) => [text, `line ${near(a, at)}`, `line ${near(b, at)}`]), note: "Vectors of different widths are compared by how they rank all pairs of lines." };
  }
  const fixed = (row) => row.map((value) => show(value)).slice(0, 4).join(", ");
  const gaps = a.map((row, at) => (row.length === b[at].length ? Math.max(...row.map((value, place) => Math.abs(value - b[at][place]))) : NaN));
  return { big: Number.isNaN(gaps[0]) ? "?" : measure(Math.max(...gaps)), meaning: task === "score" ? "largest difference of a score" : "largest difference of a probability", names: [task === "score" ? "Document" : "Line", "First", "Second"], lines: texts.map((text, at) => [text, fixed(a[at]), fixed(b[at])]),
    note: task === "score" ? "The first line is the query, the others are its documents." : "" };
}
const ranksOf = (values) => { const order = values.map((_, at) => at).sort((x, y) => values[x] - values[y]), ranks = []; order.forEach((at, rank) => { ranks[at] = rank; }); return ranks; };
function correlation(a, b) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length, [ma, mb] = [mean(a), mean(b)];
  const x = a.map((value) => value - ma), y = b.map((value) => value - mb);
  return dot(x, y) / Math.max(Math.sqrt(dot(x, x) * dot(y, y)), Number.MIN_VALUE);
}

/** The other models that do what this one does, the same checkpoint first. */
function otherModels() {
  const others = models.filter((candidate) => candidate !== model && shared(model, candidate));
  return others.sort((a, b) => Number(b.evidence.checkpoint === model.evidence.checkpoint) - Number(a.evidence.checkpoint === model.evidence.checkpoint));
}
