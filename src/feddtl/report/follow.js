// Follows the runs of the page: asks what they do, and changes what differs on the page after a round has ended.
"use strict";

const EVERY = 2000; // milliseconds
const lines = document.getElementById("doing");
let shown = document.documentElement.dataset.version;
let next = 0; // when the page may be drawn again

// Replaces what differs and leaves the rest, with its scroll positions, as it is.
function update(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const kept = [...old.childNodes], given = [...fresh.childNodes];
  const same = old.cloneNode(false).isEqualNode(fresh.cloneNode(false));
  if (!same || !kept.length || kept.length !== given.length) old.replaceWith(fresh);
  else kept.forEach((node, index) => update(node, given[index]));
}

// What the reader has unfolded stays unfolded.
function keepOpen(page) {
  const name = (part) => `${part.closest("section")?.id} ${part.querySelector("summary").textContent}`;
  const open = new Map([...document.querySelectorAll("details")].map((part) => [name(part), part.open]));
  for (const part of page.querySelectorAll("details")) part.open = open.get(name(part)) ?? part.open;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.text();
}

function say(texts) {
  const fresh = lines.cloneNode(false);
  for (const text of texts) fresh.appendChild(document.createElement("li")).textContent = text;
  if (!lines.isEqualNode(fresh)) lines.replaceChildren(...fresh.childNodes);
}

async function draw() {
  const began = performance.now();
  const page = new DOMParser().parseFromString(await ask("."), "text/html");
  keepOpen(page);
  for (const part of ["header", "main"]) update(document.querySelector(part), page.querySelector(part));
  document.title = page.title;
  shown = page.documentElement.dataset.version;
  // A page that takes long to draw is drawn less often, so that it does not slow the runs down.
  next = performance.now() + 2 * (performance.now() - began);
}

async function look() {
  try {
    const state = JSON.parse(await ask("state"));
    say(state.lines);
    if (state.version !== shown && performance.now() >= next) await draw();
  } catch {
    say(["The page is no longer updated: `feddtl report --serve` has ended, or does not answer."]);
  }
  setTimeout(look, EVERY);
}

look();
