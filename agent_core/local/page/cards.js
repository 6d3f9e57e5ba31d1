// Draws Adaptive Cards: https://adaptivecards.io/explorer/. What it does not know it shows as plain text.

import { inputRenderers } from "./inputs.js";
import { element, image, link, list, markdown, object, plain, safeAddress, words } from "./text.js";

const DEEPEST = 12;
const MOST_ELEMENTS = 1000;
const SPACINGS = ["none", "small", "default", "medium", "large", "extralarge", "padding"];
const STYLES = ["default", "emphasis", "good", "attention", "warning", "accent"];
const COLORS = ["default", "dark", "light", "accent", "good", "warning", "attention"];
const SIZES = ["small", "default", "medium", "large", "extralarge"];
const ALIGNMENTS = ["left", "center", "right"];

/**
 * A card as an element.
 *
 * `host.submit({data, title})` and `host.execute({type, id, verb, data})` do what its buttons ask for; both return a
 * promise of what to tell the user, null if there is nothing.
 */
export function renderCard(card, host) {
  const status = element("p", { class: "card-status", role: "status" });
  const scope = {
    host,
    status,
    parent: null,
    inputs: [],
    shared: { targets: new Map(), left: MOST_ELEMENTS, busy: false },
  };
  const body = cardBody(card, scope, 0);
  body.append(status);
  return body;
}

function cardBody(card, scope, depth) {
  const { body, actions, fallbackText, speak } = object(card);
  const made = element("div", { class: "card", role: "group", "aria-label": words(speak) || "Card" });
  if (list(body).length === 0 && list(actions).length === 0) {
    made.append(plain(words(fallbackText) || "An empty card"));
    return made;
  }
  made.append(...children(body, scope, depth), actionSet(actions, scope, depth));
  return made;
}

function children(elements, scope, depth) {
  return list(elements).map((child) => draw(child, scope, depth + 1));
}

function draw(node, scope, depth) {
  const { type, id, isVisible, spacing, separator } = object(node);
  scope.shared.left -= 1;
  if (depth > DEEPEST || scope.shared.left < 0) return element("p", { class: "subtle" }, "…");
  const made = (RENDERERS.get(type) ?? drawUnknown)(object(node), scope, depth);
  made.classList.add("card-element", `spacing-${oneOf(spacing, SPACINGS, "default")}`);
  made.classList.toggle("separated", separator === true);
  if (isVisible === false) made.hidden = true;
  if (words(id)) scope.shared.targets.set(id, made);
  return made;
}

function drawUnknown(node, scope, depth) {
  if (Object.keys(object(node.fallback)).length > 0) return draw(node.fallback, scope, depth + 1);
  if (node.fallback === "drop") return element("div");
  const text = [node.fallbackText, node.text, node.altText, node.title].map(words).find((each) => each !== "");
  return plain(text ?? `[${words(node.type) || "unknown element"}]`);
}

const RENDERERS = new Map([
  ["TextBlock", drawTextBlock],
  ["RichTextBlock", drawRichTextBlock],
  ["Image", drawImage],
  ["ImageSet", (node) => element("div", { class: "images" }, ...list(node.images).map((each) => drawImage(object(each))))],
  ["FactSet", drawFactSet],
  ["Container", drawContainer],
  ["ColumnSet", drawColumnSet],
  ["Column", drawContainer],
  ["ActionSet", (node, scope, depth) => actionSet(node.actions, scope, depth)],
  ["Table", drawTable],
  ...inputRenderers,
]);

function drawTextBlock(node) {
  const made = markdown(words(node.text));
  if (words(node.style).toLowerCase() === "heading") {
    made.setAttribute("role", "heading");
    made.setAttribute("aria-level", "3");
  }
  style(made, node);
  made.classList.toggle("nowrap", node.wrap !== true);
  return made;
}

function drawRichTextBlock(node) {
  const made = element("div", { class: "plain" });
  for (const run of list(node.inlines)) {
    if (typeof run === "string") {
      made.append(run);
      continue;
    }
    const { text, selectAction, italic, underline, strikethrough, highlight } = object(run);
    const open = object(selectAction).type === "Action.OpenUrl";
    const part = open ? link(words(text), selectAction.url) : element("span", {}, words(text));
    style(part, object(run));
    part.classList.toggle("italic", italic === true);
    part.classList.toggle("underline", underline === true);
    part.classList.toggle("strikethrough", strikethrough === true);
    part.classList.toggle("highlight", highlight === true);
    made.append(part);
  }
  style(made, { horizontalAlignment: node.horizontalAlignment });
  return made;
}

function style(made, node) {
  made.classList.add(
    `size-${oneOf(node.size, SIZES, "default")}`,
    `color-${oneOf(node.color, COLORS, "default")}`,
    `align-${oneOf(node.horizontalAlignment, ALIGNMENTS, "left")}`,
  );
  made.classList.toggle("bolder", words(node.weight).toLowerCase() === "bolder");
  made.classList.toggle("subtle", node.isSubtle === true);
  made.classList.toggle("monospace", words(node.fontType).toLowerCase() === "monospace");
}

function drawImage(node) {
  const size = oneOf(node.size, ["auto", "stretch", "small", "medium", "large"], "auto");
  const made = image(node.url, node.altText, { class: `image image-${size}` });
  made.classList.toggle("person", words(node.style).toLowerCase() === "person");
  return element("div", { class: `align-${oneOf(node.horizontalAlignment, ALIGNMENTS, "left")}` }, made);
}

function drawFactSet(node) {
  const facts = list(node.facts).flatMap((fact) => [
    element("dt", {}, words(object(fact).title)),
    element("dd", {}, markdown(words(object(fact).value))),
  ]);
  return element("dl", { class: "facts" }, ...facts);
}

function drawContainer(node, scope, depth) {
  const kind = oneOf(node.style, STYLES, "default");
  return element("div", { class: `container container-${kind}` }, ...children(node.items, scope, depth));
}

function drawColumnSet(node, scope, depth) {
  const columns = list(node.columns).map((column) => {
    const made = draw({ ...object(column), type: "Column" }, scope, depth + 1);
    const { width } = object(column);
    const pixels = /^(\d{1,3})px$/.exec(words(width));
    const weight = Number(width);
    if (pixels) made.style.flex = `0 0 ${pixels[1]}px`;
    else if (words(width).toLowerCase() === "auto") made.style.flex = "0 1 auto";
    else made.style.flex = `${weight > 0 && weight <= 1000 ? weight : 1} 1 0`;
    return made;
  });
  return element("div", { class: "columns" }, ...columns);
}

function drawTable(node, scope, depth) {
  const rows = list(node.rows).map((row, number) => {
    const heads = number === 0 && node.firstRowAsHeaders !== false;
    const cells = list(object(row).cells).map((cell) =>
      element(heads ? "th" : "td", heads ? { scope: "col" } : {}, ...children(object(cell).items, scope, depth + 1)),
    );
    return element("tr", {}, ...cells);
  });
  return element("div", { class: "table" }, element("table", {}, element("tbody", {}, ...rows)));
}

// Actions

function actionSet(actions, scope, depth) {
  const buttons = element("div", { class: "buttons" });
  const made = element("div", { class: "actions" }, buttons);
  for (const action of list(actions)) {
    const { button, panel } = drawAction(object(action), scope, depth);
    if (words(action?.tooltip)) button.title = action.tooltip;
    buttons.append(button);
    if (panel) made.append(panel);
  }
  return made;
}

function drawAction(action, scope, depth) {
  const title = words(action.title) || words(action.id) || "OK";
  scope.shared.left -= 1;
  if (depth > DEEPEST || scope.shared.left < 0) return { button: element("span", { class: "subtle" }, "…") };
  const kind = oneOf(action.style, ["positive", "destructive"], "default");
  const button = element("button", { type: "button", class: `button button-${kind}` }, title);
  button.disabled = action.isEnabled === false;
  switch (action.type) {
    case "Action.OpenUrl":
      if (safeAddress(action.url) === null) return { button: element("span", { class: "subtle" }, `${title} (${words(action.url)})`) };
      return { button: link(title, action.url, { class: "button" }) };
    case "Action.Submit":
      button.addEventListener("click", () => act(action, scope, (data) => scope.host.submit({ data, title })));
      return { button };
    case "Action.Execute": {
      const { type, id, verb } = action;
      button.addEventListener("click", () => act(action, scope, (data) => scope.host.execute({ type, id, verb, data })));
      return { button };
    }
    case "Action.ToggleVisibility":
      button.addEventListener("click", () => toggle(action, scope));
      return { button };
    case "Action.ShowCard": {
      const panel = cardBody(action.card, { ...scope, parent: scope, inputs: [] }, depth + 1);
      panel.hidden = true;
      panel.classList.add("shown-card");
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        panel.hidden = !panel.hidden;
        button.setAttribute("aria-expanded", String(!panel.hidden));
      });
      return { button, panel };
    }
    default:
      if (Object.keys(object(action.fallback)).length > 0) return drawAction(action.fallback, scope, depth + 1);
      return { button: element("span", { class: "subtle" }, title) };
  }
}

/** Send what an action carries together with the inputs of its card and of the cards around it. */
async function act(action, scope, send) {
  if (scope.shared.busy) return;
  const inputs = [];
  for (let each = scope; each !== null; each = each.parent) inputs.push(...each.inputs);
  const wanted = words(action.associatedInputs).toLowerCase() === "none" ? [] : inputs;
  const wrong = wanted.filter((input) => !input.check());
  if (wrong.length > 0) {
    wrong[0].focus();
    return;
  }
  // Built from pairs, because `data` may have any key, "__proto__" too.
  const pairs = [...Object.entries(object(action.data)), ...wanted.map((input) => [input.id, input.read()])];
  const data = pairs.length === 0 && typeof action.data === "string" ? action.data : Object.fromEntries(pairs);
  scope.shared.busy = true;
  scope.status.textContent = "Sending…";
  try {
    scope.status.textContent = (await send(data)) ?? "";
  } finally {
    scope.shared.busy = false;
  }
}

function toggle(action, scope) {
  for (const target of list(action.targetElements)) {
    const made = scope.shared.targets.get(typeof target === "string" ? target : object(target).elementId);
    const visible = object(target).isVisible;
    if (made) made.hidden = typeof visible === "boolean" ? !visible : !made.hidden;
  }
}

function oneOf(value, known, otherwise) {
  const given = words(value).toLowerCase();
  return known.includes(given) ? given : otherwise;
}
