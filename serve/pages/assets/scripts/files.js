// --- where files come from ---------------------------------------------------------------------------------------------------
/** Runs a step outside of a form's own button: shows that it runs, and what the server says against it. */
async function running(step) {
  const slow = begin();
  try {
    await step();
  } catch (problem) {
    if (problem instanceof Problem) failed(problem);
    else if (!(problem instanceof Stale)) throw problem;
  } finally {
    end(slow);
  }
}

/** Hands files that are dropped anywhere on the page to `take` while `panel` is open; `target` shows that it would take them. */
function acceptDrops(panel, target, take) {
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (panel.hidden || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      target.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) running(() => take([...event.dataTransfer.files]));
    });
  }
}
