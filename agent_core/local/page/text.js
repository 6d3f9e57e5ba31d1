// Turns what others wrote into DOM nodes. Nothing here, or anywhere in the page, reads text as HTML.

const LINKS = new Set(["http:", "https:", "mailto:"]);
const DEEPEST = 4;
// Every repetition is bounded, so that a long text of opening marks cannot keep the page busy.
const MARKS = new RegExp(
  [
    String.raw`\\([\\${"`"}*_{}[\]()#+.!~-])`,
    String.raw`${"`"}([^${"`"}\n]{1,2000})${"`"}`,
    String.raw`\*\*([^\n]{1,2000}?)\*\*`,
    String.raw`(?<!\w)__([^\n]{1,2000}?)__(?!\w)`,
    String.raw`\*([^*\s][^*\n]{0,2000}?)\*`,
    String.raw`(?<!\w)_([^_\s][^_\n]{0,2000}?)_(?!\w)`,
    String.raw`\[([^[\]\n]{1,500})\]\(([^()\s]{1,2000}(?:\([^()\s]{0,200}\)[^()\s]{0,200})?)\)`,
    String.raw`(https?:\/\/[^\s<>"${"`"}]{1,2000})`,
  ].join("|"),
  "g",
);

/** An element with attributes and children; strings become text nodes, null is left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The value if it is a string, "" otherwise: what comes over the wire may be anything. */
export function words(value) {
  return typeof value === "string" ? value : "";
}

/** The value if it is a list, an empty one otherwise. */
export function list(value) {
  return Array.isArray(value) ? value : [];
}

/** The value if it is an object that is no list, an empty one otherwise. */
export function object(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
}

/** The address if it is one that may be opened, null for javascript:, data: and whatever else there is. */
export function safeAddress(address) {
  try {
    const url = new URL(words(address).trim());
    return LINKS.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** A link that opens in a tab of its own; plain text, with the address behind it, where it may not be opened. */
export function link(label, address, attributes = {}) {
  const href = safeAddress(address);
  if (href === null) return element("span", {}, `${label} (${words(address)})`);
  // Words and address may differ: the title says where it leads.
  return element("a", { title: href, ...attributes, href, target: "_blank", rel: "noopener noreferrer" }, label);
}

/** An image if its address is a data: URI or of this site; else, as nothing may be loaded from others, a link. */
export function image(address, description, attributes = {}) {
  const text = words(description) || "Image";
  const given = words(address).trim();
  let url = null;
  try {
    url = new URL(given, location.href);
  } catch {
    return element("span", attributes, text);
  }
  if (/^data:image\//i.test(given) || url.origin === location.origin) {
    return element("img", { ...attributes, src: url.href, alt: words(description) });
  }
  return link(text, given, attributes);
}

/** Text as it is, line breaks kept. */
export function plain(text) {
  return element("div", { class: "plain" }, text);
}

/** Bold, italic, code, links, lists, headings and line breaks of Markdown; everything else as it is written. */
export function markdown(text) {
  const blocks = element("div", { class: "markdown" });
  let paragraph = null;
  let items = null;
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  for (let number = 0; number < lines.length; number += 1) {
    const line = lines[number];
    const item = /^\s{0,8}(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/.exec(line);
    const heading = /^#{1,6}\s+(.*)$/.exec(line);
    if (/^\s{0,3}```/.test(line)) {
      const end = lines.findIndex((other, at) => at > number && /^\s{0,3}```\s*$/.test(other));
      const code = lines.slice(number + 1, end < 0 ? lines.length : end);
      blocks.append(element("pre", { tabindex: "0" }, element("code", {}, code.join("\n"))));
      number = end < 0 ? lines.length : end;
      paragraph = items = null;
    } else if (item) {
      const tag = item[1] ? "ul" : "ol";
      if (items === null || items.localName !== tag) {
        items = element(tag, tag === "ol" && item[2] !== "1" ? { start: item[2] } : {});
        blocks.append(items);
      }
      items.append(element("li", {}, ...inline(item[3], 0)));
      paragraph = null;
    } else if (heading) {
      blocks.append(element("p", { class: "heading" }, ...inline(heading[1], 0)));
      paragraph = items = null;
    } else if (line.trim() === "") {
      paragraph = items = null;
    } else {
      items = null;
      if (paragraph === null) {
        paragraph = element("p");
        blocks.append(paragraph);
      } else {
        paragraph.append(element("br"));
      }
      paragraph.append(...inline(line, 0));
    }
  }
  return blocks;
}

function inline(text, depth) {
  if (depth > DEEPEST) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(MARKS)) {
    const [whole, escaped, code, bold, bold2, italic, italic2, label, address, bare] = match;
    if (match.index > end) nodes.push(text.slice(end, match.index));
    end = match.index + whole.length;
    if (escaped !== undefined) nodes.push(escaped);
    else if (code !== undefined) nodes.push(element("code", {}, code));
    else if (bold !== undefined || bold2 !== undefined) {
      nodes.push(element("strong", {}, ...inline(bold ?? bold2, depth + 1)));
    } else if (italic !== undefined || italic2 !== undefined) {
      nodes.push(element("em", {}, ...inline(italic ?? italic2, depth + 1)));
    } else if (label !== undefined) {
      nodes.push(safeAddress(address) === null ? whole : link(label, address));
    } else {
      const shown = bare.replace(/[.,;:!?)\]}'*_]+$/, "");
      nodes.push(link(shown, shown), bare.slice(shown.length));
    }
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}
