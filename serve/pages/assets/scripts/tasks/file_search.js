// --- search in a file --------------------------------------------------------------------------------------------------------
/** The lines of the chosen file: {name, lines, vectors}. `vectors` are kept by model, in this page only; the server keeps nothing. */
let opened = null;
const MOST_FILE_LINES = 5000, MOST_FILE_BYTES = 2e7, LINES_OF_A_REQUEST = 32, HITS = 10;
const SAMPLE_NAME = "the example";

/** The lines of a text file. Of JSON lines it takes `text`, `content` or the first text in an object. */
function linesInFile(name, text) {
  const lines = linesOf(text);
  if (!/\.(jsonl|ndjson)$/i.test(name)) return lines;
  return lines.map((line) => {
    try {
      const row = JSON.parse(line);
      return typeof row === "string" ? row : String(row.text ?? row.content ?? Object.values(row).find((value) => typeof value === "string") ?? "");
    } catch (error) { return line; }
  }).filter(Boolean);
}

async function openFile(file) {
  if (file.size > MOST_FILE_BYTES) throw new Problem(0, `“${file.name}” has ${megabytes(file.size)}; this page reads ${megabytes(MOST_FILE_BYTES)} at most.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes.subarray(0, 4096).includes(0)) throw new Problem(0, `“${file.name}” is no text file.`);
  const all = linesInFile(file.name, new TextDecoder().decode(bytes));
  if (!all.length) throw new Problem(0, `“${file.name}” has no lines.`);
  useLines(file.name, all.slice(0, MOST_FILE_LINES), all.length);
  await perform($("search"));
}

function useLines(name, lines, total = lines.length) {
  opened = { name, lines, vectors: new Map() };
  $("search-name").textContent = `${name}: ${plural(lines.length, "line")}${total > lines.length ? ` of ${total.toLocaleString("en")}; the rest is left out` : ""}`;
}

async function searchFile() {
  const query = $("search-query").value.trim(), { lines, vectors, name } = opened;
  if (!vectors.has(model.id)) {
    const begun = performance.now(), role = model.roles ? "document" : undefined;
    const rows = vectors.partial?.id === model.id ? vectors.partial.rows : [];  // of a run that was stopped
    vectors.partial = { id: model.id, rows };
    while (rows.length < lines.length) {
      const left = ((performance.now() - begun) / Math.max(rows.length, 1)) * (lines.length - rows.length) / 1000;
      working(`${rows.length.toLocaleString("en")} of ${plural(lines.length, "line")}${rows.length > 64 ? `, ${left.toFixed(0)} s left` : ""} …`, rows.length, lines.length);
      const part = await embedded(lines.slice(rows.length, rows.length + LINES_OF_A_REQUEST), { role });
      rows.push(...part.map((row) => Float32Array.from(unit(row))));
    }
    vectors.set(model.id, rows);
  }
  const [asked] = (await embedded([query], { role: model.roles ? "query" : undefined })).map(unit);
  const ranked = vectors.get(model.id).map((row, at) => ({ text: lines[at], score: dot(asked, row), from: `line ${at + 1}` })).sort((a, b) => b.score - a.score).slice(0, HITS);
  answer(`Best of ${plural(lines.length, "line")} of ${name}`, bars(ranked), h("p", { className: "note" }, "Scores are cosines. The vectors of the lines stay in this page, so the next query needs one vector only. The server stores nothing."));
  return `Best: ${ranked[0].from}, score ${ranked[0].score.toFixed(4)}`;
}
