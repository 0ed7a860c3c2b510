// Uploads: several files one after another, each in a request of its own, with its progress.

import { sendFile } from "./api.js";
import { announce, button, fromTemplate, get, showError } from "./dom.js";
import { percent, size, t } from "./texts.js";

const waiting = []; // uploads that have not begun, in their order
let sending = null;
let opened = null; // the course whose files are shown
let onUploaded = () => {};

/** `uploaded` is called with each resource that was sent, and its course. */
export function prepareUploads(uploaded) {
  onUploaded = uploaded;
  window.addEventListener("beforeunload", (event) => {
    if (sending) event.preventDefault(); // the browser asks whether to leave
  });
}

/** Shows the uploads of a course. */
export function openUploads(courseId) {
  opened = courseId;
  for (const item of get("uploads").children) item.hidden = item.dataset.course !== opened;
}

/** Sends a file, under another name if one is given. It takes the place of the course's file with this name. */
export function upload(courseId, file, name = file.name) {
  const item = fromTemplate("file");
  item.dataset.course = courseId;
  item.hidden = courseId !== opened;
  item.querySelector(".name").textContent = name;
  item.querySelector(".hint").textContent = size(file.size);
  get("uploads").append(item);
  enqueue({ courseId, file, name, item });
}

function enqueue(entry) {
  const { item } = entry;
  const state = item.querySelector(".state");
  state.textContent = t("files.queued");
  state.dataset.status = "pending";
  item.querySelector(".actions").replaceChildren();
  showError(null, item.querySelector(".error"));
  waiting.push(entry);
  if (!sending) sendNext();
}

async function sendNext() {
  sending = waiting.shift() ?? null;
  if (!sending) return;
  const { courseId, file, name, item } = sending;
  const [state, bar] = [item.querySelector(".state"), item.querySelector("progress")];
  const onProgress = (part) => {
    bar.value = part;
    state.textContent = t("files.sending", percent(part));
  };
  const stopping = new AbortController();
  item.querySelector(".actions").replaceChildren(button(t("cancel"), () => stopping.abort()));
  state.dataset.status = "running";
  bar.hidden = false;
  bar.ariaLabel = name;
  onProgress(0);
  try {
    const resource = await sendFile(courseId, file, name, { onProgress, signal: stopping.signal });
    remove(item);
    announce(t("files.added", name));
    onUploaded(courseId, resource);
  } catch (error) {
    if (stopping.signal.aborted) remove(item);
    else showFailure(sending, error);
  }
  sendNext();
}

/** Removes an upload from the list. The keyboard stays near it. */
function remove(item) {
  const hasFocus = item.contains(document.activeElement);
  item.remove();
  if (hasFocus) get("file-input").focus();
}

function showFailure(entry, error) {
  const { item, name } = entry;
  const state = item.querySelector(".state");
  state.textContent = t("files.failed");
  state.dataset.status = "failed";
  item.querySelector("progress").hidden = true;
  if (error.code === "network") item.querySelector(".error").textContent = t("files.notSent");
  else showError(error, item.querySelector(".error"));
  announce(`${name}: ${item.querySelector(".error").textContent}`);
  item.querySelector(".actions").replaceChildren(
    button(t("files.retry"), () => enqueue(entry)),
    button(t("files.dismiss"), () => remove(item)),
  );
}
