// --- tokens, and what is cut -------------------------------------------------------------------------------------------------
/** Of {tokens, limit}: which tokens stay where a request says truncate_prompt_tokens. Special tokens at both ends stay, and text goes on the side
    that the model's tokenizer cuts. */
function staying(tokens, limit, side) {
  if (tokens.length <= limit) return tokens.map(() => true);
  let first = 0, last = 0;
  while (first < tokens.length && tokens[first].special) first += 1;
  while (last < tokens.length - first && tokens[tokens.length - 1 - last].special) last += 1;
  const room = Math.max(0, limit - first - last), end = tokens.length - last;
  return tokens.map((_, at) => at < first || at >= end || (side === "left" ? at >= end - room : at < first + room));
}

async function countTokens() {
  const text = $("count-text").value, limit = Math.min(Number($("count-limit").value) || model.max_tokens, model.max_tokens);
  const tokens = await tokenize(text);
  const stays = staying(tokens, limit, model.truncation_side), cut = stays.filter((stay) => !stay).length;
  const words = (text.match(/\S+/gu) ?? []).length;
  const share = h("div", { className: "meter", role: "meter", "aria-label": "Tokens of the limit", "aria-valuemin": 0, "aria-valuemax": limit, "aria-valuenow": Math.min(tokens.length, limit) },
    h("i", { className: cut ? "over" : "", vars: { w: clamp(tokens.length / limit, 0, 1) } }));
  const views = tokens.slice(0, MOST_TOKENS).map((token, at) => tokenView(token, { className: stays[at] ? "" : "cut", properties: { title: `id ${token.id}` } }, stays[at] ? null : h("span", { className: "unseen" }, " (cut)")));
  const note = cut ? `Struck through: ${plural(cut, "token")} that truncate_prompt_tokens=${limit} cuts away on the ${model.truncation_side}. A request that does not ask to be cut is refused above ${plural(model.max_tokens, "token")}.`
    : `Nothing is cut. The model reads up to ${plural(model.max_tokens, "token")}, special tokens included.`;
  answer(`Tokens of ${limit.toLocaleString("en")}`, h("div", { className: "big", id: "token-count" }, tokens.length.toLocaleString("en")), share,
    h("p", { className: "note", id: "count-note" }, note, ` ${plural(words, "word")}, ${plural([...text].length, "character")}, ${(tokens.length / Math.max(words, 1)).toFixed(2)} tokens a word.`),
    h("ul", { className: "tokens counted", id: "counted" }, ...views), tokens.length > MOST_TOKENS ? h("p", { className: "note" }, `and ${plural(tokens.length - MOST_TOKENS, "token")} more`) : null);
  return `${plural(tokens.length, "token")}${cut ? `, ${cut} of them cut` : ""}`;
}
const MOST_TOKENS = 2000;
