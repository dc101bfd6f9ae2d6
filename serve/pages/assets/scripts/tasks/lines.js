// --- lines: a matrix of similarities, and a map ------------------------------------------------------------------------------
const MOST_LINES = 150, SHOWN_VALUES = 14;
const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** [[number]]: the vectors of texts, asked for in batches. `progress(done)` after each. */
async function embedded(texts, { name = model.id, role, batch = 32, progress } = {}) {
  const vectors = [];
  for (let at = 0; at < texts.length; at += batch) {
    const response = await ask("v1/embeddings", { model: name, input: texts.slice(at, at + batch), ...(role ? { input_type: role } : {}) });
    vectors.push(...response.data.map((item) => item.embedding));
    progress?.(vectors.length);
  }
  return vectors;
}
const unit = (vector) => { const length = Math.max(Math.sqrt(dot(vector, vector)), Number.MIN_VALUE); return vector.map((value) => value / length); };

async function compareLines() {
  const texts = linesOf($("lines-texts").value);
  if (texts.length < 2) throw new Problem(0, "Write at least two lines.");
  if (texts.length > MOST_LINES) throw new Problem(0, `This page compares ${MOST_LINES} lines at most; these are ${texts.length.toLocaleString("en")}.`);
  const vectors = (await embedded(texts, { progress: (done) => working(`${done} of ${plural(texts.length, "line")} …`, done, texts.length) })).map(unit);
  const table = vectors.map((row) => vectors.map((column) => dot(row, column)));
  const { points, kept } = project(vectors);
  let pair = [0, 1];
  for (let a = 0; a < texts.length; a++) for (let b = a + 1; b < texts.length; b++) if (table[a][b] > table[pair[0]][pair[1]]) pair = [a, b];
  const line = h("p", { className: "note", id: "lines-line" }, `The closest two are lines ${pair[0] + 1} and ${pair[1] + 1}: ${show(table[pair[0]][pair[1]])}`);
  const linked = [];
  const point = (at) => {
    for (const [other, parts] of linked.entries()) for (const part of parts) part.classList.toggle("picked", other === at);
    const near = table[at].map((value, other) => [value, other]).filter(([, other]) => other !== at).sort((a, b) => b[0] - a[0])[0];
    line.textContent = `Line ${at + 1}, “${short(texts[at], 60)}”, is closest to line ${near[1] + 1}, “${short(texts[near[1]], 60)}”: ${show(near[0])}`;
  };
  const map = mapOf(texts, points, point, linked), matrix = matrixOf(texts, table, point, linked);
  answer(plural(texts.length, "line"), line, h("h3", {}, "Map"), map,
    h("p", { className: "note" }, `Lines that are close in meaning lie close together. Two axes of a principal component analysis, computed in this page: they keep ${(100 * (kept[0] + kept[1])).toFixed(0)} % of the differences between these lines, so trust the matrix more.`),
    h("h3", {}, "Cosine of every two lines"), matrix);
  return line.textContent;
}

/** A picture with a dot and the beginning of its text for each line. Names that would lie on each other are left out; pointing at a dot shows them. */
function mapOf(texts, points, point, linked) {
  const wide = 720, tall = 400, edge = 26;
  const range = (axis) => { const values = points.map((xy) => xy[axis]); const low = Math.min(...values), high = Math.max(...values); return [low, high - low || 1]; };
  const [left, across] = range(0), [bottom, up] = range(1);
  const places = points.map(([x, y]) => [edge + ((x - left) / across) * (wide - 2 * edge), tall - edge - ((y - bottom) / up) * (tall - 2 * edge)]);
  const taken = places.map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
  const overlaps = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const dots = places.map(([x, y], at) => {
    const name = short(texts[at], 26), width = name.length * 7.2;
    const right = [x + 8, y - 9, x + 10 + width, y + 9], left = [x - 10 - width, y - 9, x - 8, y + 9];
    const isFree = (box) => box[0] > 0 && box[2] < wide && !taken.some((other, place) => place !== at && overlaps(box, other));
    const box = [right, left].find(isFree), before = box ? box === left : right[2] > wide;
    if (box) taken.push(box);
    const dotAt = drawing("g", { class: "dot", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, drawing("title", {}, document.createTextNode(`${at + 1}: ${texts[at]}`)), drawing("circle", { r: 5 }),
      drawing("text", { x: before ? -10 : 10, y: 4, "text-anchor": before ? "end" : "start", class: box ? "" : "crowded" }, document.createTextNode(name)));
    dotAt.addEventListener("pointerenter", () => point(at));
    dotAt.addEventListener("click", () => point(at));
    linked[at] = [dotAt];
    return dotAt;
  });
  return drawing("svg", { viewBox: `0 0 ${wide} ${tall}`, class: "scatter", role: "img", id: "map", "aria-label": "Map of the lines; the matrix below has the same as numbers" }, ...dots);
}

function matrixOf(texts, table, point, linked) {
  const values = table.flatMap((row, at) => row.filter((_, other) => other !== at)), low = Math.min(...values), high = Math.max(...values);
  const weight = (value) => clamp((value - low) / Math.max(high - low, 1e-6), 0, 1).toFixed(3);
  const numbers = texts.length <= SHOWN_VALUES;
  const rows = table.map((row, at) => {
    const name = h("th", { scope: "row", title: texts[at] }, `${at + 1} `, h("span", {}, short(texts[at], 34)));
    const line = h("tr", {}, name, ...row.map((value, other) => h("td", { className: at === other ? "self" : "", vars: { w: at === other ? 0 : weight(value) }, title: `${at + 1} and ${other + 1}: ${value.toFixed(4)}` }, numbers ? (at === other ? "" : value.toFixed(2).replace("-", "−")) : h("span", { className: "unseen" }, value.toFixed(2)))));
    line.addEventListener("pointerenter", () => point(at));
    linked[at].push(line);
    return line;
  });
  return h("div", { className: `map${numbers ? " numbers" : ""}`, tabIndex: 0, role: "region", "aria-label": "Cosine of every two lines" },
    h("table", { id: "matrix" }, h("thead", {}, h("tr", {}, h("td", { className: "corner" }), ...texts.map((text, at) => h("th", { scope: "col", title: text }, String(at + 1))))), h("tbody", {}, ...rows)));
}
