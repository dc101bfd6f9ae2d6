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
