// Elements of the page. Texts of courses, files and errors become text nodes only, never markup.

import { localise, t } from "./texts.js";

export const get = (id) => document.getElementById(id);

/** A copy of a template's element, with its texts in the user's language. */
export function fromTemplate(id) {
  const copy = get(id).content.firstElementChild.cloneNode(true);
  localise(copy);
  return copy;
}

/** A new element with these properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A button that says what it does. */
export function button(text, onClick, className = "small") {
  const made = element("button", { type: "button", className }, text);
  made.addEventListener("click", onClick);
  return made;
}

/** A chip with a button that removes it. */
export function chip(text, removeLabel, onRemove) {
  const item = fromTemplate("chip");
  item.firstElementChild.textContent = text;
  const remove = item.querySelector("button");
  remove.ariaLabel = remove.title = removeLabel;
  remove.addEventListener("click", onRemove);
  return item;
}

/** Sets the width of a bar, 0 to 1. As an attribute, because the policy of the page allows no styles. */
export function setBar(rectangle, value, start = 0) {
  const percent = (part) => `${Math.max(0, Math.min(1, part)) * 100}%`;
  rectangle.setAttribute("x", percent(start));
  rectangle.setAttribute("width", percent(Math.min(value, 1 - start)));
}

/** Lets screen readers say something that is seen anyway. */
export function announce(text) {
  get("announcement").textContent = "";
  setTimeout(() => {
    get("announcement").textContent = text;
  }, 100);
}

/** What is shown of an error: in the user's language if possible, else what the server says. */
export function errorText(error) {
  const known = t.optional(`error.${error.code}`);
  if (known) return known;
  const message = error.code === "http" ? t("error.unexpected", error.message) : error.message;
  return t("error", message);
}

export function showError(error, where = get("error")) {
  where.textContent = error ? errorText(error) : "";
}

/** Asks the user and returns whether it may be done. */
export function confirmed({ title, text, action }) {
  const dialog = get("confirm");
  get("confirm-title").textContent = title;
  get("confirm-text").textContent = text;
  get("confirm-action").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** The URL if a browser may open it from here, else null: it was written by others. */
export function safeUrl(url) {
  try {
    return ["http:", "https:"].includes(new URL(url).protocol) ? url : null;
  } catch {
    return null;
  }
}
