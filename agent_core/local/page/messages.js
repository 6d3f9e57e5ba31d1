// Draws one entry of the transcript.

import { renderCard } from "./cards.js";
import { element, image, link, list, markdown, object, plain, safeAddress, words } from "./text.js";

const ADAPTIVE_CARD = "application/vnd.microsoft.card.adaptive";
const SIMPLE_CARD = /^application\/vnd\.microsoft\.card\.(hero|thumbnail|signin|oauth|receipt)$/;
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });

/**
 * The entry as an element, null if it is none that is shown.
 *
 * `actions` is what its buttons do: `say(message)`, `execute(entry, attachment, action)` and `sendAgain(entry)`.
 */
export function renderEntry(entry, actions) {
  const activity = object(entry.activity);
  if (entry.status === "deleted") return null;
  if (entry.author === "user") return fromUser(entry, activity, actions);
  switch (activity.type) {
    case "message":
    case "typing":
      return fromAgent(entry, activity, actions);
    case "trace":
      return trace(activity);
    case "endOfConversation":
      return element("p", { class: "event" }, "The agent ended the conversation.");
    default:
      return null;
  }
}

/** The day an entry belongs to, in words. */
export function dayOf(entry) {
  return DAY.format(timeOf(entry));
}

/** The minute an entry belongs to, in words. */
export function minuteOf(entry) {
  return `${dayOf(entry)} ${CLOCK.format(timeOf(entry))}`;
}

/** What a suggested action or a card's button does, as a button or a link. */
export function actionButton(action, actions, replyToId) {
  const { type, value, text, displayText } = object(action);
  const title = words(object(action).title) || words(value) || "OK";
  if (type === "openUrl" || type === "signin" || type === "downloadFile") {
    return safeAddress(value) === null
      ? element("span", { class: "subtle" }, `${title} (${words(value)})`)
      : link(title, value, { class: "button" });
  }
  const button = element("button", { type: "button", class: "button" }, title);
  const message = { replyToId };
  switch (type) {
    case "imBack":
      message.text = words(value);
      break;
    case "postBack":
      Object.assign(message, typeof value === "string" ? { text: value } : { value });
      message.channelData = { postBack: true };
      break;
    case "messageBack":
      Object.assign(message, { text: words(text) || undefined, value });
      message.channelData = { messageBack: { displayText: words(displayText) || title } };
      break;
    default:
      return element("span", { class: "subtle" }, title);
  }
  button.addEventListener("click", () => actions.say(message));
  return button;
}

function fromUser(entry, activity, actions) {
  const failed = entry.status === "failed";
  if (activity.type !== "message" && !failed) return null;
  const made = element("article", { class: "message user" });
  if (activity.type === "message") {
    const bubble = element("div", { class: "bubble" }, spoken("You said:"));
    const text = words(object(object(activity.channelData).messageBack).displayText) || words(activity.text);
    bubble.append(text ? plain(text) : submitted(activity.value));
    made.append(bubble, element("p", { class: "meta" }, time(entry), entry.status === "pending" ? element("span", { class: "pending" }, "sending") : null));
  }
  if (failed) {
    const again = element("button", { type: "button", class: "button again" }, "Send again");
    again.addEventListener("click", () => actions.sendAgain(entry));
    const what = activity.type === "message" ? "Not delivered." : "The agent was not told of this conversation.";
    made.append(element("div", { class: "notice" }, element("p", {}, element("strong", {}, what), ` ${words(entry.notice)}`), again));
  }
  return made;
}

/** What a card's inputs said. */
function submitted(value) {
  const pairs = Object.entries(object(value));
  if (pairs.length === 0) return plain(typeof value === "string" ? value : "Submitted");
  const rows = pairs.flatMap(([name, given]) => [
    element("dt", {}, name),
    element("dd", {}, typeof given === "string" ? given : JSON.stringify(given)),
  ]);
  return element("div", {}, element("p", { class: "submitted" }, "Submitted"), element("dl", { class: "facts" }, ...rows));
}

function fromAgent(entry, activity, actions) {
  const streaming = entry.status === "streaming";
  const info = list(activity.entities).map(object).find((each) => words(each.type).toLowerCase() === "streaminfo");
  const informative = activity.type === "typing" && info?.streamType === "informative";
  const name = words(object(activity.from).name) || "Agent";
  const made = element("article", { class: "message agent", "aria-busy": streaming ? "true" : null });
  made.append(element("p", { class: "sender" }, name));
  const text = words(activity.text);
  if (text.trim()) {
    const shown = ["plain", "xml"].includes(activity.textFormat) ? plain(text) : markdown(text);
    const bubble = element("div", { class: "bubble" }, spoken(`${name} said:`), shown);
    bubble.classList.toggle("informative", informative);
    bubble.classList.toggle("streaming", streaming && !informative);
    bubble.append(...citations(activity));
    made.append(bubble);
  }
  list(activity.attachments).forEach((attachment, place) => {
    made.append(element("div", { class: "bubble attachment" }, drawAttachment(object(attachment), place, entry, actions)));
  });
  const marks = [
    entry.edited ? "edited" : null,
    entry.status === "interrupted" ? "the agent stopped here" : null,
    isGenerated(activity) ? "AI generated" : null,
  ].filter((mark) => mark !== null);
  made.append(element("p", { class: "meta" }, time(entry), ...marks.map((mark) => element("span", {}, mark))));
  return made;
}

function drawAttachment(attachment, place, entry, actions) {
  const { contentType, content, contentUrl, name } = attachment;
  if (contentType === ADAPTIVE_CARD) {
    return renderCard(content, {
      submit: ({ data }) =>
        actions.say(
          typeof data === "string"
            ? { text: data, replyToId: entry.id, channelData: { postBack: true } }
            : { value: data, replyToId: entry.id, channelData: { postBack: true } },
        ),
      execute: (action) => actions.execute(entry, place, action),
    });
  }
  if (SIMPLE_CARD.test(words(contentType))) return simpleCard(object(content), actions, entry.id);
  if (/^image\//.test(words(contentType)) && words(contentUrl)) {
    return image(contentUrl, words(name) || "Image", { class: "picture" });
  }
  const label = `${words(name) || "Attachment"} · ${words(contentType) || "unknown type"}`;
  return safeAddress(contentUrl) === null ? plain(label) : link(label, contentUrl);
}

function simpleCard(card, actions, replyToId) {
  const made = element("div", { class: "card", role: "group", "aria-label": words(card.title) || "Card" });
  for (const picture of list(card.images)) {
    made.append(image(object(picture).url, object(picture).alt, { class: "picture" }));
  }
  if (words(card.title)) made.append(element("p", { class: "card-title" }, card.title));
  if (words(card.subtitle)) made.append(element("p", { class: "subtle" }, card.subtitle));
  if (words(card.text)) made.append(markdown(card.text));
  const buttons = list(card.buttons).map((button) => actionButton(button, actions, replyToId));
  if (buttons.length > 0) made.append(element("div", { class: "actions" }, element("div", { class: "buttons" }, ...buttons)));
  return made;
}

/** The sources of a message, https://learn.microsoft.com/microsoftteams/platform/bots/how-to/bot-messages-ai-generated-content */
function citations(activity) {
  const entries = messageEntities(activity)
    .flatMap((entity) => list(entity.citation))
    .map((claim) => ({ number: object(claim).position, ...object(object(claim).appearance) }))
    .filter(({ number }) => Number.isInteger(number));
  if (entries.length === 0) return [];
  const rows = entries.map(({ number, name, url, abstract }) => {
    const title = words(name) || "Source";
    const shown = words(url) ? link(title, url) : element("span", {}, title);
    return element("li", { value: String(number) }, shown, words(abstract) ? element("span", { class: "abstract" }, ` ${abstract}`) : null);
  });
  return [element("ol", { class: "citations", "aria-label": "Sources" }, ...rows)];
}

function isGenerated(activity) {
  return messageEntities(activity).some((entity) => list(entity.additionalType).includes("AIGeneratedContent"));
}

function messageEntities(activity) {
  return list(activity.entities).map(object).filter((entity) => entity.type === "https://schema.org/Message");
}

function trace(activity) {
  const details = JSON.stringify(activity.value ?? null, null, 2);
  const title = words(activity.label) || words(activity.name) || "Trace";
  return element("details", { class: "trace" }, element("summary", {}, `Trace: ${title}`), element("pre", { tabindex: "0" }, details));
}

function spoken(text) {
  return element("span", { class: "hidden" }, text);
}

function time(entry) {
  const when = timeOf(entry);
  return element("time", { datetime: when.toISOString() }, CLOCK.format(when));
}

function timeOf(entry) {
  // JavaScript takes three digits of a second for sure; the channel writes seven.
  const when = new Date(words(object(entry.activity).timestamp).replace(/(\.\d{3})\d*/, "$1"));
  return Number.isNaN(when.getTime()) ? new Date(0) : when;
}
