// The inputs of an Adaptive Card: each with its label, its value and a check of what the card demands.

import { element, list, object, words } from "./text.js";

let made = 0;

/** Pairs of an input's type and the function that draws it; drawn inputs add themselves to `scope.inputs`. */
export const inputRenderers = [
  ["Input.Text", drawText],
  ["Input.Number", (node, scope) => drawField(node, scope, numberField(node))],
  ["Input.Date", (node, scope) => drawField(node, scope, element("input", { type: "date", min: words(node.min), max: words(node.max) }))],
  ["Input.Time", (node, scope) => drawField(node, scope, element("input", { type: "time" }))],
  ["Input.Toggle", drawToggle],
  ["Input.ChoiceSet", drawChoiceSet],
];

function drawText(node, scope) {
  const kind = { email: "email", tel: "tel", url: "url", password: "password" };
  const style = words(node.style).toLowerCase();
  const field = node.isMultiline === true
    ? element("textarea", { rows: "3" })
    : element("input", { type: Object.hasOwn(kind, style) ? kind[style] : "text" });
  if (Number.isInteger(node.maxLength) && node.maxLength > 0) field.maxLength = node.maxLength;
  return drawField(node, scope, field);
}

function numberField(node) {
  const limits = {};
  if (typeof node.min === "number") limits.min = node.min;
  if (typeof node.max === "number") limits.max = node.max;
  return element("input", { type: "number", step: "any", ...limits });
}

function drawField(node, scope, field) {
  if (words(node.placeholder)) field.setAttribute("placeholder", node.placeholder);
  field.value = typeof node.value === "number" ? String(node.value) : words(node.value);
  return complete(node, scope, field, {
    read: () => field.value,
    isEmpty: () => field.value.trim() === "" && !field.validity.badInput,
    isGood: () => field.checkValidity(),
  });
}

function drawToggle(node, scope) {
  const on = words(node.valueOn) || "true";
  const off = words(node.valueOff) || "false";
  const box = element("input", { type: "checkbox", id: nextId() });
  box.checked = words(node.value) === on;
  const choice = element("div", { class: "choice" }, box, element("label", { for: box.id }, words(node.title)));
  return complete(node, scope, box, { read: () => (box.checked ? on : off), isEmpty: () => !box.checked }, choice);
}

function drawChoiceSet(node, scope) {
  const choices = list(node.choices).map((each) => ({ title: words(object(each).title), value: words(object(each).value) }));
  const chosen = new Set(words(node.value).split(",").filter((each) => each !== ""));
  const several = node.isMultiSelect === true;
  if (!several && words(node.style).toLowerCase() !== "expanded") {
    const options = choices.map(({ title, value }) => element("option", { value }, title));
    const select = element("select", {}, element("option", { value: "" }, words(node.placeholder) || "Choose"), ...options);
    select.value = choices.find(({ value }) => chosen.has(value))?.value ?? "";
    return complete(node, scope, select, { read: () => select.value, isEmpty: () => select.value === "" });
  }
  const name = nextId();
  const boxes = choices.map(({ value }) => {
    const box = element("input", { type: several ? "checkbox" : "radio", name, id: nextId(), value });
    box.checked = chosen.has(value);
    return box;
  });
  const rows = choices.map(({ title }, number) =>
    element("div", { class: "choice" }, boxes[number], element("label", { for: boxes[number].id }, title)),
  );
  const read = () => boxes.filter((box) => box.checked).map((box) => box.value).join(",");
  const group = element("div", { role: several ? "group" : "radiogroup", id: nextId() }, ...rows);
  return complete(node, scope, group, { read, isEmpty: () => read() === "", focus: () => boxes[0]?.focus() });
}

/** The field with its label and its error, told to the scope so that an action finds it. */
function complete(node, scope, field, input, shown = field) {
  const required = node.isRequired === true;
  field.id ||= nextId();
  const grouped = field.localName === "div";
  const error = element("p", { class: "input-error", id: nextId(), role: "alert", hidden: true });
  const label = element(grouped ? "p" : "label", { class: "input-label", id: nextId() }, words(node.label));
  if (grouped) field.setAttribute("aria-labelledby", label.id);
  else label.htmlFor = field.id;
  // A toggle has its words beside its box; where nothing else names a field, its placeholder or id has to.
  const isToggle = shown !== field;
  if (!words(node.label) && !isToggle) {
    field.removeAttribute("aria-labelledby");
    field.setAttribute("aria-label", words(node.placeholder) || words(node.id) || "Input");
  }
  if (required) {
    label.append(element("span", { class: "required", "aria-hidden": "true" }, " *"));
    if (field.localName !== "div") field.required = true;
    else field.setAttribute("aria-required", "true");
  }
  field.setAttribute("aria-describedby", error.id);
  const check = () => {
    const missing = required && input.isEmpty();
    const good = !missing && (input.isEmpty() || (input.isGood?.() ?? true));
    error.hidden = good;
    field.setAttribute("aria-invalid", String(!good));
    if (!good) error.textContent = words(node.errorMessage) || (missing ? "This is needed." : "This is not a value that fits.");
    return good;
  };
  field.addEventListener("input", () => error.hidden || check());
  if (words(node.id)) {
    scope.inputs.push({ id: node.id, read: input.read, check, focus: input.focus ?? (() => field.focus()) });
  }
  return element("div", { class: "input" }, words(node.label) || required ? label : null, shown, error);
}

function nextId() {
  made += 1;
  return `card-input-${made}`;
}
