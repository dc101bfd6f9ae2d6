// --- answers that follow what is written -------------------------------------------------------------------------------------
const DEBOUNCE_MS = 350, MOMENT_MS = 400;
let waiting = 0;
/** What the shown answer was computed of: the same is not asked again unless by the button. */
let answered = null;

function stop() {
  turn += 1;
  controller.abort();
  controller = new AbortController();
}

/** Says what runs: a share of it, or nothing that can be counted. */
function working(text, done, total) {
  const bar = $("progress-bar");
  $("progress-text").textContent = text;
  if (total) { bar.max = total; bar.value = done; } else bar.removeAttribute("value");
}

/** Shows that something runs, once it takes longer than a moment. */
function begin() {
  working("Working …");
  return setTimeout(() => { $("progress").hidden = false; }, MOMENT_MS);
}

function end(slow) {
  clearTimeout(slow);
  $("progress").hidden = true;
}

function clear() {
  clearTimeout(waiting);
  stop();
  answered = null;
  for (const button of document.querySelectorAll(".go")) button.removeAttribute("aria-disabled");
  $("answer").hidden = $("requests").hidden = $("progress").hidden = true;
  $("answer").removeAttribute("aria-busy");
  forget();
  say("");
}

/** Runs the task of a form; what still runs for it is outdated and ends. */
async function perform(form) {
  clearTimeout(waiting);
  stop();
  const mine = turn, button = form.querySelector(".go"), begun = performance.now();
  answered = JSON.stringify([model.id, linkOf(form).hash, fieldsOf(form).map((field) => field.value)]);
  button.setAttribute("aria-disabled", "true");
  $("answer").setAttribute("aria-busy", "true");
  forget();
  remember(form);
  const slow = begin();
  try {
    const summary = await runs[form.id]();
    if (mine === turn) say(`${summary}. ${(performance.now() - begun).toFixed(0)} milliseconds.`);
  } catch (problem) {
    if (problem instanceof Problem) { if (mine === turn) failed(problem); }
    else if (!(problem instanceof Stale)) throw problem;
  } finally {
    clearTimeout(slow);
    if (mine === turn) {
      $("progress").hidden = true;
      button.removeAttribute("aria-disabled");
      $("answer").removeAttribute("aria-busy");
    }
  }
}

/** Whether a form's task may run without being asked to: it is cheap, and everything it needs is there. */
const isLive = (form) => "live" in form.dataset && form.checkValidity();

function follow(form, delay_ms = DEBOUNCE_MS) {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (form.hidden || !model) return;
    remember(form);
    const now = JSON.stringify([model.id, linkOf(form).hash, fieldsOf(form).map((field) => field.value)]);
    if (now !== answered && isLive(form)) perform(form);
  }, delay_ms);
}
