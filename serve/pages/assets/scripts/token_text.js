// --- tokens as people read them ----------------------------------------------------------------------------------------------
/** Bytes behind the letters of byte-level vocabularies (GPT-2's table): printable bytes stand for themselves, the rest from U+0100 on. */
const BYTES = (() => {
  const table = new Map();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
    table.set(plain ? String.fromCharCode(byte) : String.fromCharCode(next++), byte);
  }
  return table;
})();

/** [{id, text, joined, special}]: the vocabulary's marks (##, ▁, Ġ) become `joined`, which says that a token continues the word before. */
function readable(ids, pieces) {
  const wordpiece = pieces.some((piece) => piece.startsWith("##"));
  const sentence = pieces.some((piece) => piece.startsWith("▁"));
  const bytes = !sentence && pieces.some((piece) => /[ĠĊ]/.test(piece));
  let first = true;
  return pieces.map((piece, index) => {
    const special = /^(\[[A-Za-z0-9_]+\]|<[^<>]+>)$/.test(piece);
    let text = piece, joined = false;
    if (!special) {
      if (wordpiece) { joined = piece.startsWith("##"); text = piece.replace(/^##/, ""); }
      else if (sentence) { joined = !piece.startsWith("▁") && !first; text = piece.replaceAll("▁", " ").trim(); }
      else if (bytes) {
        joined = !/^[ĠĊ]/.test(piece) && !first;
        if ([...piece].every((letter) => BYTES.has(letter))) text = new TextDecoder().decode(Uint8Array.from([...piece], (letter) => BYTES.get(letter)));
        text = text.replaceAll("\n", "⏎").trim();
      }
      first = false;
    }
    return { id: ids[index], text: text || "␣", joined, special };
  });
}

const tokenize = async (text) => { const response = await ask("tokenize", { model: model.id, prompt: text, return_token_strs: true }); return readable(response.tokens, response.token_strs); };

/** The tokens whose vectors the server answers for one side: prefix, limit, marker, expansion and skip list as `role` says. */
function prepared(tokens, role, name) {
  let row = tokens;
  const limit = (role?.max_tokens ?? model.max_tokens) - (role?.marker_id != null ? 1 : 0);
  if (row.length > limit) row = [...row.slice(0, limit - 1), row.at(-1)];
  if (role?.marker_id != null) row = [row[0], { id: role.marker_id, text: name === "query" ? "[Q]" : "[D]", special: true }, ...row.slice(1)];
  if (role?.expand_id != null) while (row.length < role.max_tokens) row = [...row, { id: role.expand_id, text: "[MASK]", special: true }];
  return row.filter((token) => !role?.skip_ids.includes(token.id));
}

/** Cuts what the head leaves out at both ends; numbers the rows if the server counted them otherwise than we did. */
function fitted(tokens, head, rows) {
  const ends = (count, id, token) => (id == null || token?.id === id ? count : 0);
  const last = ends(head.drop_last, head.drop_last_id, tokens.at(-1));
  const row = tokens.slice(ends(head.drop_first, head.drop_first_id, tokens[0]), tokens.length - last);
  return row.length === rows ? row : Array.from({ length: rows }, (_, index) => ({ text: `#${index + 1}` }));
}

const tokenView = (token, extra = {}, ...inside) =>
  h(extra.tag ?? "li", { ...extra.properties, className: [token.joined ? "joined" : "", token.special ? "special" : "", extra.className ?? ""].join(" ").trim(), vars: { w: extra.weight ?? 0, ...(extra.hue ? { hue: extra.hue } : {}) } }, token.text, ...inside);
