// The sliders of the thresholds explorer: each moves the number beside it, and the figures follow a moment later.
// Without this script the numbers are fields of a form like any other, and the sliders stay hidden.
"use strict";

let waiting = 0;

function prepare() {
  for (const slider of document.querySelectorAll("[data-slides]")) {
    slider.value = document.getElementById(slider.dataset.slides).value;
    slider.hidden = false;
  }
}

async function recount(form, hand) {
  const query = new URLSearchParams(new FormData(form));
  query.set("hand", hand);
  const asked = ++waiting;
  try {
    const { page } = await answer(`${form.dataset.figures}?${query}`);
    // Answers may overtake each other; only the last question counts.
    if (asked !== waiting || !form.isConnected) return;
    document.getElementById("figures").replaceChildren(...page.body.childNodes);
    document.getElementById("figures").dataset.shown = hand;
  } catch {
    announce(live.dataset.failed, true);
  }
}

let timer;

document.addEventListener("input", (event) => {
  const form = event.target.closest("form[data-figures]");
  if (!form) return;
  const slider = event.target.dataset.slides && event.target;
  const field = slider ? document.getElementById(slider.dataset.slides) : event.target;
  if (slider) field.value = slider.value;
  const other = form.querySelector(`[data-slides="${CSS.escape(field.id)}"]`);
  if (other && !slider) other.value = field.value;
  clearTimeout(timer);
  timer = setTimeout(() => recount(form, field.name), 120);
});

document.addEventListener("tamis:shown", prepare);
prepare();
