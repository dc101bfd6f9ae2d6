// --- what was asked ----------------------------------------------------------------------------------------------------------
const MOST_LOGGED = 8;
/** The language that was looked at last, and whether code is unfolded: kept while the page is open. */
let language = "curl", unfolded = false;

function log(path, body, status, took, answer) {
  const count = Number($("more").dataset.count ?? 0);
  $("requests").hidden = false;
  if ($("log").childElementCount >= MOST_LOGGED) {  // a search over dozens of texts asks the same of each
    $("more").dataset.count = count + 1;
    $("more").textContent = `and ${plural(count + 1, "request")} like them`;
    $("more").hidden = false;
    return;
  }
  const tokens = answer?.usage?.prompt_tokens ?? answer?.count;
  const fold = h("details", { className: "request", open: unfolded },
    h("summary", {}, h("b", {}, "POST /" + path), h("span", {}, String(status)), h("span", {}, `${took.toFixed(took < 10 ? 1 : 0)} ms`),
      Number.isInteger(tokens) ? h("span", {}, plural(tokens, "token")) : null, h("span", { className: "hint" }, "Code")),
    code(path, body));
  fold.firstChild.addEventListener("click", () => { unfolded = !fold.open; });
  $("log").append(fold);
}

/** Tabs of a request's code, with one button that copies what is shown. */
function code(path, body) {
  const snippets = snippetsOf(path, body), text = h("pre", { tabIndex: 0, role: "tabpanel" });
  let current;
  const buttons = snippets.map((snippet) => h("button", { type: "button", role: "tab", onclick: () => turnTo(snippet, true) }, snippet.name));
  function turnTo(snippet, chosen) {
    current = snippet;
    if (chosen) language = snippet.name;
    text.textContent = snippet.shown;
    text.setAttribute("aria-label", `${snippet.name} code`);
    buttons.forEach((button, at) => {
      button.setAttribute("aria-selected", String(snippets[at] === snippet));
      button.tabIndex = snippets[at] === snippet ? 0 : -1;
    });
  }
  const copy = h("button", { type: "button", className: "plain copy", "aria-label": `Copy the code for ${path}` }, "Copy");
  copy.addEventListener("click", () => copyText(current.whole(), copy, text));
  const list = h("div", { className: "languages", role: "tablist", "aria-label": "Language" }, ...buttons);
  arrows(list, () => buttons, (button) => { button.click(); button.focus(); });
  turnTo(snippets.find((snippet) => snippet.name === language) ?? snippets[0], false);
  return h("div", { className: "code" }, h("div", { className: "code-head" }, list, copy), text);
}

/** Arrow keys, Home and End in a list of tabs. */
function arrows(list, tabs, choose) {
  list.addEventListener("keydown", (event) => {
    const open = tabs(), at = open.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: open.length - 1 }[event.key];
    if (next === undefined || at < 0) return;
    event.preventDefault();
    choose(open[(next + open.length) % open.length]);
  });
}

function forget() {
  $("log").replaceChildren();
  $("requests").hidden = $("more").hidden = true;
  delete $("more").dataset.count;
}

/** Copies a text; `element` shows it, for browsers that let nobody write to the clipboard. */
async function copyText(text, button, element) {
  const name = button.textContent;
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch (error) {  // plain http on another machine has no clipboard
    element.textContent = text;
    element.hidden = false;
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected: press Ctrl C";
  say(button.textContent);
  setTimeout(() => { button.textContent = name; }, 2000);
}
