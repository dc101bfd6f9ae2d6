// --- the evidence of the artifact --------------------------------------------------------------------------------------------
const megabytes = (count) => (count < 1e6 ? `${(count / 1e3).toFixed(0)} kB` : count < 1e9 ? `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB` : `${(count / 1e9).toFixed(1)} GB`);
const measure = (value) => (value == null ? "" : value === 0 ? "0" : Math.abs(value) < 1e-3 ? value.toExponential(1).replace("-", "−") : value.toFixed(6));
/** A cosine so close to 1 that its digits would say nothing is written as its distance. */
const closeness = (cosine) => (cosine < 1 && cosine > 1 - 1e-5 ? `1 − ${(1 - cosine).toExponential(0).replace("-", "−")}` : measure(cosine));
const computedBy = (facts) => [facts.precision, facts.backend, facts.device === "cpu" ? null : facts.device].filter(Boolean).join(" · ");

/** What was measured when the model was exported, and what it was made of. */
function showEvidence() {
  const facts = model.evidence, { reading } = facts;
  const worst = facts.measured.filter((entry) => entry.worst_cosine != null).reduce((least, entry) => Math.min(least, entry.worst_cosine), 1);
  const widest = facts.measured.filter((entry) => entry.worst_cosine == null && entry.worst_difference != null).reduce((most, entry) => Math.max(most, entry.worst_difference), 0);
  const bound = [worst < 1 ? `cosine at least ${measure(Math.floor(worst * 1e6) / 1e6)}` : null, widest ? `scores within ${measure(widest)}` : null].filter(Boolean).join(", ");
  $("evidence-line").textContent = facts.measured.length ? `${plural(facts.measured.length, "check")} against PyTorch${bound && ": " + bound}` : "no check of what computes it";
  const pairs = [["Computed by", `${facts.file}, ${computedBy(facts)}, ${megabytes(facts.bytes)}`], ["Checkpoint", facts.checkpoint + (facts.revision ? ` at ${facts.revision}` : "")],
    ["Exported", facts.created && `${facts.created.replace("T", " ").replace("+00:00", " UTC")} with ${Object.entries(facts.versions).map(([name, version]) => `${name} ${version}`).join(", ")}`],
    ["Compared with", reading && [`${reading.reference}${reading.twin ? " (a smaller twin of the checkpoint)" : ""}`, reading.why].filter(Boolean).join("; ")], ["Digest", facts.digest]];
  $("evidence-facts").replaceChildren(...pairs.filter(([, text]) => text).flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
  const cosine = (entry) => entry.worst_cosine != null;
  const amount = (name, text) => h("td", { className: "amount", "data-name": name }, text);
  const row = (who, what, entry) => h("tr", {}, h("th", { scope: "row" }, what), h("td", {}, who), amount("texts", String(entry.texts)),
    amount("worst", cosine(entry) ? closeness(entry.worst_cosine) : entry.worst_difference == null ? "equal" : measure(entry.worst_difference)),
    amount("bound", entry.tolerance == null ? "equal" : `${cosine(entry) ? "≥" : "≤"} ${measure(entry.tolerance)}`));
  const rows = [...facts.measured.map((entry) => row("PyTorch", `${entry.task}, ${entry.shape}`, entry)), ...(reading?.agreements ?? []).map((entry) => row("its own library", entry.what, entry))];
  $("evidence-rows").replaceChildren(...rows);
  $("evidence-table").hidden = !rows.length;
}
