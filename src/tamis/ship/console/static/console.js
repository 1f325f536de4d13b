// What pages do beyond what HTML does by itself. The markup says what is meant:
//   form[data-swap], a[data-swap]  without a reload: the <main> of the answer takes the place of this one
//   [data-key="x"]              is clicked, or focused where it is a field, when x is pressed outside a field;
//                               data-key-about says what for in the list of shortcuts
//   [data-opens="id"]           opens a dialog
//   [data-src="/address"]       is filled with what that address answers
//   [data-uncovers="id"]        uncovers a text, or covers it again
//   [data-sends]                sends its form when it changes
"use strict";

const live = document.getElementById("live");
const main = document.getElementById("main");

let quiet;

function announce(text, failed) {
  clearTimeout(quiet);
  live.classList.toggle("failed", Boolean(failed));
  live.textContent = text;
  // What went wrong stays until something else is said.
  if (!failed) quiet = setTimeout(() => { live.textContent = ""; }, 8000);
}

async function answer(address, options) {
  const response = await fetch(address, { credentials: "same-origin", ...options });
  return { page: new DOMParser().parseFromString(await response.text(), "text/html"), at: response.url };
}

function show({ page, at }) {
  const fresh = page.getElementById("main");
  if (!fresh) { location.assign(at); return; }
  document.title = page.title;
  main.className = fresh.className;
  main.replaceChildren(...fresh.childNodes);
  announce(fresh.dataset.said || "");
  if (at !== location.href) history.pushState(null, "", at);
  begin();
  (main.querySelector("[data-focus]") || main).focus({ preventScroll: true });
  scrollTo(0, 0);
}

let sending = false;

function send(form, button) {
  const fields = new URLSearchParams(new FormData(form, button));
  const post = form.method === "post";
  const address = new URL(button?.getAttribute("formaction") || form.getAttribute("action") || location.href, location.href);
  if (!post) address.search = fields;
  go(address, post ? { method: "POST", body: fields } : {});
}

async function go(address, options) {
  if (sending) return;
  sending = true;
  main.setAttribute("aria-busy", "true");
  try {
    show(await answer(address, options));
  } catch {
    announce(live.dataset.failed, true);
  } finally {
    sending = false;
    main.removeAttribute("aria-busy");
  }
}

async function fill(part) {
  try {
    const { page } = await answer(part.dataset.src);
    if (!part.isConnected) return;
    part.replaceChildren(...page.body.childNodes);
    coverOthers();
  } catch {
    announce(live.dataset.failed, true);
  }
}

function uncover(button) {
  const covered = document.getElementById(button.dataset.uncovers);
  const shown = covered.classList.toggle("covered") === false;
  covered.toggleAttribute("inert", !shown);
  covered.setAttribute("aria-hidden", String(!shown));
  for (const label of button.querySelectorAll("span")) label.hidden = !label.hidden;
  coverOthers();
}

// Texts beside the one that can be uncovered are covered as long as it is.
function coverOthers() {
  const hidden = document.querySelector("#text.covered") !== null;
  for (const other of document.querySelectorAll(".case")) {
    other.classList.toggle("covered", hidden);
    other.setAttribute("aria-hidden", String(hidden));
  }
}

function listKeys() {
  const list = document.querySelector("dl.keys");
  list.replaceChildren();
  for (const one of document.querySelectorAll("[data-key-about]")) {
    const term = document.createElement("dt"), about = document.createElement("dd"), key = document.createElement("kbd");
    key.textContent = one.dataset.key;
    term.append(key);
    about.textContent = one.dataset.keyAbout;
    list.append(term, about);
  }
}

function begin() {
  for (const part of main.querySelectorAll("[data-src]")) fill(part);
  document.dispatchEvent(new Event("tamis:shown"));
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-swap]")) return;
  event.preventDefault();
  send(event.target, event.submitter);
});

document.addEventListener("click", (event) => {
  const opens = event.target.closest("[data-opens]");
  if (opens) { listKeys(); document.getElementById(opens.dataset.opens).showModal(); }
  const link = event.target.closest("a[data-swap]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
    event.preventDefault();
    go(link.href, {});
  }
  const uncovers = event.target.closest("[data-uncovers]");
  if (uncovers) uncover(uncovers);
});

document.addEventListener("change", (event) => {
  if (event.target.closest("[data-sends]")) event.target.form.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input:not([type=checkbox], [type=radio]), textarea, select");
  if (typing) {
    if (event.key === "Escape") { typing.blur(); main.focus({ preventScroll: true }); }
    return;
  }
  if (document.body.dataset.keys === "off") return;
  // A button or a link in focus answers to these itself.
  if ((event.key === "Enter" || event.key === " ") && event.target.closest("button, a, summary, input")) return;
  const meant = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!meant || meant.disabled) return;
  event.preventDefault();
  if (meant.matches("input:not([type=checkbox], [type=radio]), textarea, select")) meant.focus();
  else meant.click();
});

addEventListener("popstate", () => location.reload());
if (live.textContent) announce(live.textContent);
begin();
