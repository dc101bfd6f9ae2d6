// --- the key and the colours: on both pages ------------------------------------------------------------------------------------
const KEY = "poolrt key", THEME = "poolrt theme";
const keep = (store, name, value) => { try { value ? store().setItem(name, value) : store().removeItem(name); } catch (error) { /* storage is switched off: kept in the page only */ } };
const kept = (store, name) => { try { return store().getItem(name); } catch (error) { return null; } };
const session = () => sessionStorage, local = () => localStorage;
function keyChanged() {
  keep(session, KEY, $("key").value);
  $("key-button").dataset.set = $("key").value ? "yes" : "no";
}
$("key").value = kept(session, KEY) ?? "";
keyChanged();
$("key").addEventListener("input", keyChanged);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("key-sheet").open = false;
  $("key-button").focus();
  afterKey();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && $("key-sheet").open) { $("key-sheet").open = false; $("key-button").focus(); } });
document.addEventListener("click", (event) => { if (!$("key-sheet").contains(event.target)) $("key-sheet").open = false; });

const system = matchMedia("(prefers-color-scheme: dark)");
const preferred = () => (system.matches ? "dark" : "light");
const painted = () => document.documentElement.dataset.theme ?? preferred();
function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  $("theme").textContent = painted() === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Change to ${$("theme").textContent.toLowerCase()} colours`);
}
$("theme").addEventListener("click", () => {
  const theme = painted() === "dark" ? "light" : "dark";
  const chosen = theme === preferred() ? null : theme;
  keep(local, THEME, chosen);
  paint(chosen);
});
system.addEventListener("change", () => paint(kept(local, THEME)));
paint(kept(local, THEME));
