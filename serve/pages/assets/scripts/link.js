// --- the address as the state of the page ------------------------------------------------------------------------------------
/** Behind the # stand the open tab, the model and every field that differs from how the page opens. Servers never see that part of an address.
    The key is no part of it, and neither are files. */
const LONGEST_LINK = 12000;
const fieldsOf = (form) => [...form.querySelectorAll("textarea[id], input[type=text][id], input[type=number][id], select[id]")];
const presetOf = (field) => (field.tagName === "SELECT" ? field.options[0]?.value ?? "" : field.defaultValue);

/** {hash, whole}: `whole` is false where texts are left out because they are too long for an address. */
function linkOf(form) {
  const state = new URLSearchParams();
  if (model && models.length > 1) state.set("model", model.id);
  const short = state.toString();
  for (const field of fieldsOf(form)) if (field.value !== presetOf(field)) state.set(field.id, field.value);
  const whole = state.toString().length <= LONGEST_LINK, query = whole ? state.toString() : short;
  return { hash: `#${form.id}${query && "?" + query}`, whole };
}

/** What an address asks for: {panel, model, values}. */
function linked() {
  const [panel, query] = location.hash.slice(1).split(/\?(.*)/s);
  const values = new URLSearchParams(query ?? "");
  const name = values.get("model");
  values.delete("model");
  return { panel, model: name, values };
}

/** Fills the fields of a form from an address; those it does not name get what they have at first. */
function fill(form, values) {
  for (const field of fieldsOf(form)) field.value = values.get(field.id) ?? presetOf(field);
}

function remember(form) {
  const { hash } = linkOf(form);
  if (hash !== location.hash) history.replaceState(null, "", hash);
}
