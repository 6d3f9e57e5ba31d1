// The chat page: which conversation is open, what is in it, and what the user does.

import { actionButton, dayOf, minuteOf, renderEntry } from "./messages.js";
import { element, list, object } from "./text.js";

const API = "/channel/page/conversations";
const TYPING_LASTS = 3000; // milliseconds, as in the Activity Protocol
const LONGEST_PAUSE = 5000;

const find = (id) => document.getElementById(id);
const [log, scroller, composer, text, suggestions] = ["log", "scroller", "composer", "text", "suggestions"].map(find);

// What is on the screen. `entries` is in the order of the transcript; `seen` is the latest change of each conversation
// that was on the screen.
let conversation = null;
let entries = [];
let last = 0;
let source = null;
let pause = 0;
let retry = null;
let typing = null;
let conversations = [];
let atEnd = true;
const seen = new Map();

// The channel

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(`${API}${path}`, options);
  const answer = object(await response.json().catch(() => null));
  if (!response.ok) throw new Error(object(answer.error).message ?? `The channel answered ${response.status}.`);
  return answer;
}

function here(rest = "") {
  return `/${encodeURIComponent(conversation)}${rest}`;
}

/** What a channel's client reports about where its user is. */
function surroundings() {
  const now = new Date();
  const minutes = -now.getTimezoneOffset();
  const pad = (number) => String(Math.trunc(Math.abs(number))).padStart(2, "0");
  const offset = `${minutes < 0 ? "-" : "+"}${pad(minutes / 60)}:${pad(minutes % 60)}`;
  const local = new Date(now.getTime() + minutes * 60_000).toISOString().replace("Z", offset);
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  return { locale: navigator.language, localTimestamp: local, localTimezone: timeZone };
}

async function say(message) {
  return attempt(() => call(here("/messages"), { ...message, ...surroundings() }));
}

/** Run it, show why if it fails; resolves to null, or to what went wrong. */
async function attempt(work) {
  try {
    await work();
    find("problem").textContent = "";
    return null;
  } catch (error) {
    find("problem").textContent = error instanceof TypeError ? "The local channel cannot be reached. Is it running?" : error.message;
    return find("problem").textContent;
  }
}

const actions = {
  say,
  sendAgain: (entry) => attempt(() => call(here(`/messages/${encodeURIComponent(entry.id)}/redelivery`), {})),
  async execute(entry, attachment, action) {
    let notice = null;
    const problem = await attempt(async () => {
      notice = (await call(here("/invokes"), { activityId: entry.id, attachment, action, ...surroundings() })).notice;
    });
    return problem ?? notice;
  },
};

// The stream of changes

function connect() {
  clearTimeout(retry);
  source?.close();
  const stream = new EventSource(`${API}${here(`/events?after=${last}`)}`);
  source = stream;
  stream.addEventListener("change", (event) => show(JSON.parse(event.data)));
  stream.addEventListener("typing", showTyping);
  stream.addEventListener("elsewhere", () => attempt(listConversations));
  stream.addEventListener("current", () => {
    pause = 0;
    log.removeAttribute("aria-busy");
    settle();
    connection("connected", "Connected");
  });
  stream.addEventListener("error", () => {
    // The browser's own retry gives up for good on some errors, and cannot tell a conversation that is gone.
    stream.close();
    if (stream !== source) return;
    connection("waiting", "Reconnecting…");
    pause = Math.min(LONGEST_PAUSE, pause * 2 || 500);
    retry = setTimeout(reconnect, pause);
  });
}

async function reconnect() {
  try {
    await listConversations();
  } catch {
    pause = Math.min(LONGEST_PAUSE, pause * 2 || 500);
    retry = setTimeout(reconnect, pause);
    return;
  }
  if (conversations.some(({ id }) => id === conversation)) connect();
  else await start();
}

function connection(state, words) {
  const shown = find("connection");
  shown.dataset.state = state;
  if (shown.textContent !== words) shown.textContent = words;
}

// The transcript

function show(entry) {
  last = Math.max(last, entry.sequence);
  seen.set(conversation, last);
  const old = entries.find(({ id }) => id === entry.id);
  if (old && old.sequence >= entry.sequence) return;
  if (old?.status === "pending" && entry.status === "delivered") {
    // The same words: drawing them anew would have them read out again.
    old.node?.querySelector(".pending")?.remove();
    Object.assign(old, entry);
    return;
  }
  const node = renderEntry(entry, actions);
  if (old) {
    const hadFocus = old.node?.contains(document.activeElement);
    if (old.node && node) old.node.replaceWith(node);
    else if (old.node) old.node.remove();
    Object.assign(old, entry, { node });
    if (!old.node?.isConnected && node) place(old);
    if (hadFocus) (node?.querySelector("button, input, select, textarea, a") ?? text).focus();
  } else {
    const added = { ...entry, node };
    const at = entries.findLastIndex(({ position }) => position < entry.position) + 1;
    entries.splice(at, 0, added);
    if (node) place(added);
  }
  if (entry.author === "agent") hideTyping();
  if (!log.hasAttribute("aria-busy")) settle();
  if (atEnd || (entry.author === "user" && !old)) toEnd();
  else if (!old && node) find("latest").hidden = false;
}

/** Put the entry's element where the transcript has it. */
function place(entry) {
  const next = entries.slice(entries.indexOf(entry) + 1).find(({ node }) => node?.isConnected);
  log.insertBefore(entry.node, next?.node ?? null);
}

/** What depends on the neighbours: days, groups, suggested answers, the title. */
function settle() {
  const shown = entries.filter(({ node }) => node);
  find("empty").hidden = shown.length > 0;
  let day = null;
  shown.forEach((entry, number) => {
    const next = shown[number + 1];
    entry.node.classList.toggle("continued", next?.author === entry.author && minuteOf(next) === minuteOf(entry));
    const own = dayOf(entry);
    const before = entry.node.previousElementSibling;
    const separator = before?.classList.contains("day") ? before : null;
    if (own === day) separator?.remove();
    else if (!separator) log.insertBefore(element("p", { class: "day" }, own), entry.node);
    day = own;
  });
  for (const separator of log.querySelectorAll(".day")) {
    if (!separator.nextElementSibling || separator.nextElementSibling.classList.contains("day")) separator.remove();
  }
  const newest = shown.at(-1);
  const offered = newest?.author === "agent" ? list(object(object(newest.activity).suggestedActions).actions) : [];
  suggestions.replaceChildren(...offered.map((action) => actionButton(action, actions, newest.id)));
  suggestions.hidden = offered.length === 0;
  if (!conversations.find(({ id }) => id === conversation)?.title) attempt(listConversations);
}

function toEnd() {
  atEnd = true;
  scroller.scrollTop = scroller.scrollHeight;
  find("latest").hidden = true;
}

function showTyping() {
  clearTimeout(typing);
  typing = setTimeout(hideTyping, TYPING_LASTS);
  if (find("typing").childElementCount === 0) {
    const dots = element("span", { class: "dots", "aria-hidden": "true" }, element("i"), element("i"), element("i"));
    find("typing").replaceChildren(dots, element("span", { class: "hidden" }, "The agent is typing"));
  }
  if (atEnd) toEnd();
}

function hideTyping() {
  clearTimeout(typing);
  find("typing").replaceChildren();
}

// Conversations

async function listConversations() {
  conversations = list((await call("")).conversations);
  const items = conversations.map(({ id, title, created, latest }) => {
    if (!seen.has(id)) seen.set(id, latest);
    const isNew = id !== conversation && latest > seen.get(id);
    return element(
      "li",
      {},
      element(
        "a",
        { href: `#${id}`, "aria-current": id === conversation ? "true" : null },
        element("span", { class: "name" }, title || "New conversation"),
        element("span", { class: "when" }, whenOf(new Date(created))),
        isNew ? element("span", { class: "unread" }, element("span", { class: "hidden" }, "new messages")) : null,
      ),
    );
  });
  const focused = document.activeElement?.getAttribute?.("href");
  find("conversations").replaceChildren(...items);
  if (focused) find("conversations").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  const title = conversations.find(({ id }) => id === conversation)?.title || "New conversation";
  find("title").textContent = title;
  document.title = `${title} – local chat`;
}

/** The time for today, the date for any other day. */
function whenOf(created) {
  const today = created.toDateString() === new Date().toDateString();
  return created.toLocaleString(undefined, today ? { timeStyle: "short" } : { dateStyle: "medium" });
}

function open(id) {
  conversation = id;
  entries = [];
  last = 0;
  atEnd = true;
  hideTyping();
  // Nothing of the old transcript is read out as if it were new.
  log.setAttribute("aria-busy", "true");
  log.replaceChildren();
  suggestions.hidden = true;
  find("empty").hidden = true;
  find("latest").hidden = true;
  find("conversation-id").textContent = id;
  if (location.hash !== `#${id}`) history.replaceState(null, "", `#${id}`);
  menu(false);
  connection("waiting", "Connecting…");
  connect();
  attempt(listConversations);
}

async function create() {
  await attempt(async () => open((await call("", surroundings())).id));
  text.focus();
}

/** Open the conversation named in the address, else the latest, else a new one. */
async function start() {
  const problem = await attempt(listConversations);
  if (problem) {
    connection("waiting", "Not connected");
    retry = setTimeout(start, LONGEST_PAUSE);
    return;
  }
  const wanted = conversations.find(({ id }) => `#${id}` === location.hash) ?? conversations[0];
  if (wanted) open(wanted.id);
  else await create();
}

// What the user does

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

function menu(shown) {
  document.body.classList.toggle("menu-open", shown);
  find("menu").setAttribute("aria-expanded", String(shown));
}

composer.addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = text.value;
  if (!message.trim() || conversation === null) return;
  text.value = "";
  grow();
  // What could not be sent goes back to where it was written.
  if ((await say({ text: message })) !== null && text.value === "") text.value = message;
  grow();
});
text.addEventListener("input", grow);
text.addEventListener("keydown", (event) => {
  // While an input method composes a character, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});
find("new").addEventListener("click", create);
find("latest").addEventListener("click", toEnd);
scroller.addEventListener(
  "scroll",
  () => {
    atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
    if (atEnd) find("latest").hidden = true;
  },
  { passive: true },
);
// Whoever reads the end stays there when suggestions appear, a picture loads or the window changes.
const resized = new ResizeObserver(() => atEnd && toEnd());
resized.observe(scroller);
resized.observe(log);
suggestions.addEventListener("click", () => text.focus());
find("menu").addEventListener("click", () => menu(!document.body.classList.contains("menu-open")));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.body.classList.contains("menu-open")) return;
  menu(false);
  find("menu").focus();
});
find("scroller").addEventListener("click", () => menu(false));
find("skip").addEventListener("click", (event) => {
  event.preventDefault();
  text.focus();
});
find("copy").addEventListener("click", async () => {
  const copied = await navigator.clipboard.writeText(conversation).then(() => true, () => false);
  if (!copied) getSelection().selectAllChildren(find("conversation-id"));
  find("copied").textContent = copied ? "Copied" : "Selected";
  setTimeout(() => (find("copied").textContent = ""), 2000);
});
addEventListener("hashchange", () => {
  const wanted = conversations.find(({ id }) => `#${id}` === location.hash);
  if (wanted && wanted.id !== conversation) open(wanted.id);
});

start();
