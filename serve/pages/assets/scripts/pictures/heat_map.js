// --- the heat map over a page --------------------------------------------------------------------------------------------------
/** Pale yellow to dark red, which are seen on white paper and on photographs alike; the paler, the more of the page shows through. */
const RAMP = [[255, 224, 130], [246, 130, 44], [188, 24, 62]];
const POWER = 1.5;  // leaves the crowd in the middle pale
const rampAt = (weight) => {
  const place = weight * (RAMP.length - 1), at = Math.min(RAMP.length - 2, Math.floor(place));
  return RAMP[at].map((value, channel) => Math.round(value + (RAMP[at + 1][channel] - value) * (place - at)));
};
const isWhole = (region) => region.every((edge, at) => edge === (at < 2 ? 0 : 1));
const isWord = (token) => !token.special && /[\p{L}\p{N}]/u.test(token.text);

/** Asks where a picture answers a query, and shows it in `place`; what the server says against it too. */
async function showHeat(place, query, item, preparation = null) {
  place.replaceChildren(h("p", { className: "quiet" }, `Looking at ${item.name} …`));
  working(`Looking at ${item.name} …`);
  try {
    const heat = await ask("playground/heatmap", { model: model.id, query, image: item.url, ...(preparation ? { preparation } : {}) });
    const score = (await ask("score", { model: model.id, data_1: query, data_2: { content: [part(item)] } })).data[0].score;
    const views = heatView(heat, score, item);
    place.replaceChildren(...views);
    // A model whose authors write more around a text than /score does: both can be looked at.
    if (!model.images.sides.length) return;
    const prepared = h("select", { id: "heat-preparation" }, h("option", { value: "" }, "as /score does"), h("option", { value: "model" }, "as its authors do"));
    prepared.value = preparation ?? "";
    prepared.addEventListener("change", () => running(async () => { await showHeat(place, query, item, prepared.value || null); $("heat-preparation").focus(); }));
    views[0].querySelector(".knobs").prepend(h("div", {}, h("label", { htmlFor: "heat-preparation" }, "Prepared"), prepared));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    place.replaceChildren(h("p", { className: "refusal", role: "alert" }, problem.message));
  }
}

/** One map of a patch's value per cell, for each area: of one query token, or of several together. */
function together(heat, tokens, way) {
  return heat.areas.map((area) => {
    const cells = new Float64Array(area.rows * area.columns).fill(way === "most" ? -Infinity : 0);
    for (const at of tokens) area.maps[at].forEach((value, cell) => { cells[cell] = way === "most" ? Math.max(cells[cell], value) : cells[cell] + value; });
    return cells;
  });
}

function heatView(heat, score, item) {
  const tokens = readable(heat.ids, heat.pieces);
  const names = tokens.map((token) => `“${token.text}”`);
  // The parts of a page make up one picture; where it was cut, the model sees the whole once more, as a picture of its own.
  const cut = heat.areas.some((area) => !isWhole(area.region));
  const pages = heat.areas.map((area, at) => ({ ...area, at })).filter((area) => !cut || !isWhole(area.region));
  const whole = cut ? heat.areas.map((area, at) => ({ ...area, at })).filter((area) => isWhole(area.region)) : [];
  const page = sheet(item, heat, pages, `Page: ${item.name}. Arrow keys move from patch to patch`);
  const small = whole.length ? sheet(item, heat, whole, "The whole page as the model sees it once more, beside its tiles") : null;
  const sheets = small ? [page, small] : [page];

  const line = h("p", { className: "line", id: "heat-line" }), patch = h("p", { className: "quiet", id: "heat-patch", role: "status" });
  const low = h("span", { className: "number" }), high = h("span", { className: "number" });
  const way = h("select", { id: "heat-way" }, h("option", { value: "all" }, "sum of all tokens"), h("option", { value: "words" }, "sum of the words"), h("option", { value: "most" }, "the strongest token"));
  const strength = h("input", { type: "range", id: "heat-strength", min: 0, max: 100, value: 75 });
  const smooth = h("input", { type: "checkbox", id: "heat-smooth" });
  let pinned = -1, cells = [];
  const everything = h("button", { type: "button", className: "everything" }, "All tokens");
  const most = Math.max(...heat.best.map((best) => best.value), Number.MIN_VALUE);
  const chips = tokens.map((token, at) => tokenView(token, { tag: "button", weight: Math.pow(clamp(heat.best[at].value / most, 0, 1), 3).toFixed(3), properties: { type: "button" } }, h("small", {}, heat.best[at].value.toFixed(2).replace("-", "−"))));
  const all = [everything, ...chips];

  function chosen(at) {
    if (at >= 0) return [at];
    const words = tokens.map((token, index) => index).filter((index) => isWord(tokens[index]));
    return way.value === "words" && words.length ? words : tokens.map((token, index) => index);
  }
  function view(at) {
    cells = together(heat, chosen(at), at < 0 && way.value === "most" ? "most" : "sum");
    let least = Infinity, largest = -Infinity;
    for (const map of cells) for (const value of map) { least = Math.min(least, value); largest = Math.max(largest, value); }
    low.textContent = least.toFixed(2).replace("-", "−");
    high.textContent = largest.toFixed(2).replace("-", "−");
    const weigh = (value) => Math.pow((value - least) / Math.max(largest - least, 1e-9), POWER);
    for (const one of sheets) one.paint(cells, weigh, smooth.checked, at < 0 ? null : heat.best[at]);
    line.textContent = at < 0 ? summary() : answered(at);
  }
  function summary() {
    const beside = heat.best.filter((best) => best.area === null);
    const page = heat.best.reduce((sum, best) => sum + (best.area === null ? 0 : best.value), 0);
    return `${show(page)} of ${show(heat.score)} comes from patches of the page${beside.length ? `; ${plural(beside.length, "token")} of ${tokens.length} found the text around it more alike` : ""}.`;
  }
  function answered(at) {
    const { value, area, row, column, piece } = heat.best[at];
    if (area === null) return `${names[at]} is answered best by “${readable([0], [piece])[0].text}”, which stands beside the page in the prompt: ${show(value)}`;
    const grid = heat.areas[area];
    return `${names[at]} is answered best ${cut ? (isWhole(grid.region) ? "in the whole page, " : `in tile ${area + 1}, `) : ""}at row ${row + 1} of ${grid.rows}, column ${column + 1} of ${grid.columns}: ${show(value)}`;
  }
  function pin(at) {
    pinned = at;
    all.forEach((button, index) => button.setAttribute("aria-pressed", String(index - 1 === at)));
    view(at);
  }
  all.forEach((button, index) => {
    const at = index - 1;
    button.addEventListener("click", () => { pin(at); say(line.textContent); });
    button.addEventListener("focus", () => view(at));
    button.addEventListener("blur", () => view(pinned));
    button.addEventListener("pointerenter", () => view(at));
    button.addEventListener("pointerleave", () => view(pinned));
  });
  way.addEventListener("change", () => pin(-1));
  smooth.addEventListener("change", () => view(pinned));
  const shade = () => { for (const one of sheets) one.view.style.setProperty("--strength", strength.value / 100); };
  strength.addEventListener("input", shade);
  shade();
  for (const one of sheets) {
    one.pointed = (area, cell) => {
      const here = area === null ? [] : heat.best.map((best, at) => (best.area === area && best.row * heat.areas[area].columns + best.column === cell ? at : -1)).filter((at) => at >= 0);
      chips.forEach((chip, at) => chip.classList.toggle("best", here.includes(at)));
      patch.textContent = area === null ? "" : `Row ${Math.floor(cell / heat.areas[area].columns) + 1}, column ${(cell % heat.areas[area].columns) + 1}: ${cells[area][cell].toFixed(3).replace("-", "−")}${here.length ? `. It answers ${here.map((at) => names[at]).join(", ")}` : ""}`;
    };
  }
  pin(-1);

  const same = Math.abs(score - heat.score) <= 1e-3 * Math.max(1, Math.abs(score));
  return [h("div", { className: "heat" },
    h("div", { className: "side" },
      h("h3", {}, "MaxSim"), h("div", { className: "big", id: "heat-score" }, show(heat.score)),
      h("p", { className: "quiet", id: "heat-same" }, same ? `The same as /score: ${show(score)}` : `/score prepares both sides its own way: ${show(score)}`),
      h("div", { className: "tokens pick", id: "heat-tokens", role: "group", "aria-label": "Query tokens: point at one to see what answers it, choose one to keep it" }, ...all),
      line,
      h("div", { className: "legend", id: "heat-legend" }, low, h("i", { className: "ramp", "aria-hidden": "true" }), high),
      h("div", { className: "knobs" },
        h("div", {}, h("label", { htmlFor: "heat-way" }, "All tokens together"), way),
        h("div", {}, h("label", { htmlFor: "heat-strength" }, "Strength"), strength),
        h("label", { className: "check", htmlFor: "heat-smooth" }, smooth, "Smooth between patches")),
      small ? h("div", { className: "overview" }, h("p", { className: "quiet" }, "The whole, seen once more"), small.view) : null),
    h("div", { className: "main" }, page.view, patch))];
}

/** A page with maps over it. `paint` draws them; `pointed` is called with the area and cell under the pointer or the keys, or with null. */
function sheet(item, heat, areas, name) {
  const canvas = h("canvas", { className: "overlay", "aria-hidden": "true" });
  const best = h("i", { className: "mark", hidden: true }), cursor = h("i", { className: "mark cursor", hidden: true });
  const picture = h("img", { src: item.url, alt: item.name });
  picture.addEventListener("error", () => { picture.hidden = true; });
  const view = h("div", { className: "sheet-of-paper", tabIndex: 0, role: "group", "aria-label": name, vars: { ratio: heat.width / heat.height } }, picture, canvas, best, cursor);
  const self = { view, pointed: () => {}, paint };
  const scale = Math.min(1400 / heat.width, 1400 / heat.height);
  canvas.width = Math.max(1, Math.round(heat.width * scale));
  canvas.height = Math.max(1, Math.round(heat.height * scale));

  function paint(cells, weigh, smooth, mark) {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = smooth;
    pen.imageSmoothingQuality = "high";
    for (const area of areas) {
      const tile = h("canvas", { width: area.columns, height: area.rows }), dots = new ImageData(area.columns, area.rows);
      cells[area.at].forEach((value, cell) => {
        const weight = clamp(weigh(value), 0, 1);
        dots.data.set([...rampAt(weight), Math.round(255 * weight)], cell * 4);
      });
      tile.getContext("2d").putImageData(dots, 0, 0);
      const [left, top, right, bottom] = area.region;
      pen.drawImage(tile, left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height);
    }
    const area = mark && areas.find((one) => one.at === mark.area);
    best.hidden = !area;
    if (area) put(best, area, mark.row, mark.column);
  }
  function put(mark, area, row, column) {
    const [left, top, right, bottom] = area.region;
    const wide = (right - left) / area.columns, tall = (bottom - top) / area.rows;
    const vars = { left: left + column * wide, top: top + row * tall, wide, tall };
    for (const [name, value] of Object.entries(vars)) mark.style.setProperty("--" + name, value);
  }
  let at = null;  // {area, row, column}
  function point(place) {
    at = place;
    cursor.hidden = !at;
    if (at) put(cursor, at.area, at.row, at.column);
    self.pointed(at ? at.area.at : null, at ? at.row * at.area.columns + at.column : null);
  }
  /** The patch at a point of the page, given as parts of its sides. */
  function patchAt(x, y) {
    for (const area of areas) {
      const [left, top, right, bottom] = area.region;
      if (x < left || x >= right || y < top || y >= bottom) continue;
      return { area, row: clamp(Math.floor(((y - top) / (bottom - top)) * area.rows), 0, area.rows - 1), column: clamp(Math.floor(((x - left) / (right - left)) * area.columns), 0, area.columns - 1) };
    }
    return null;
  }
  view.addEventListener("pointermove", (event) => {
    const box = view.getBoundingClientRect();
    point(patchAt((event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height));
  });
  view.addEventListener("pointerleave", () => point(null));
  view.addEventListener("blur", () => point(null));
  view.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Escape") point(null);
    if (!step) return;
    event.preventDefault();
    if (!at) return point(patchAt(0, 0) ?? { area: areas[0], row: 0, column: 0 });
    const [left, top, right, bottom] = at.area.region, wide = (right - left) / at.area.columns, tall = (bottom - top) / at.area.rows;
    const next = patchAt(left + (at.column + 0.5 + step[0]) * wide, top + (at.row + 0.5 + step[1]) * tall);
    if (next) point(next);
  });
  return self;
}
