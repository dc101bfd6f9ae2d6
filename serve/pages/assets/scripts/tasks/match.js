// --- what answers each query token -----------------------------------------------------------------------------------------
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
