// The files of the open course: each with its state until its passages can be found, replacing and deleting.

import { call, coursePath } from "./api.js";
import { courseChanged, onCourseState, watchCourseWhile } from "./course.js";
import { announce, button, confirmed, element, fromTemplate, get, showError } from "./dom.js";
import { Poller } from "./poller.js";
import { percent, size, t } from "./texts.js";
import { openUploads, prepareUploads, upload } from "./uploads.js";

const UNFINISHED = ["pending", "running"];

let opened = null; // the course whose files are shown
let opening = new AbortController();
let course = null; // its state
const rows = new Map(); // resource id → its element and its state

const poller = new Poller(refresh);

export function prepareFiles() {
  prepareUploads((courseId, resource) => {
    if (courseId !== opened) return;
    showFile(resource);
    poller.wake();
  });
  get("file-input").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = ""; // so that the same file can be chosen again
    add(files);
  });
  prepareDrop();
  onCourseState((state) => {
    course = state;
    for (const { resource } of rows.values()) showFile(resource);
  });
  watchCourseWhile(() => opened !== null && [...rows.values()].some(({ resource }) => !isSettled(resource)));
}

/** Shows the files of a course; null shows none. */
export function openFiles(courseId) {
  get("files-view").hidden = courseId === null;
  if (courseId === opened) return;
  opening.abort();
  opening = new AbortController();
  opened = courseId;
  rows.clear();
  get("files").replaceChildren();
  get("files-empty").hidden = true;
  openUploads(courseId);
  poller.stop();
  if (courseId !== null) poller.wake();
}

function prepareDrop() {
  const view = get("files-view");
  const hover = (isOver) => get("drop").classList.toggle("over", isOver);
  const hasFiles = (event) => opened !== null && event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser leaves the page and shows the file
    hover(view.contains(event.target));
  });
  window.addEventListener("dragleave", (event) => event.relatedTarget === null && hover(false));
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hover(false);
    if (view.contains(event.target)) add([...event.dataTransfer.files]);
  });
}

async function add(files) {
  const courseId = opened;
  const names = new Set([...rows.values()].map(({ resource }) => resource.name));
  for (const file of files) {
    if (!names.has(file.name.normalize()) || (await mayReplace(file.name))) upload(courseId, file);
  }
}

function mayReplace(name) {
  return confirmed({ title: t("files.replaceTitle", name), text: t("files.replaceText"), action: t("files.replace") });
}

async function refresh() {
  const { signal } = opening;
  let resources;
  try {
    ({ resources } = await call(coursePath(opened, "/resources"), { signal }));
  } catch (error) {
    if (signal.aborted) return null;
    showError(error);
    if (error.status >= 400 && error.status < 500) return null;
    throw error;
  }
  if (signal.aborted) return null;
  const ids = new Set(resources.map(({ resource_id }) => resource_id));
  for (const id of rows.keys()) if (!ids.has(id)) removeFile(id);
  for (const resource of resources) showFile(resource);
  get("files-empty").hidden = rows.size > 0;
  get("files-empty").textContent = t("files.none");
  const unfinished = resources.filter(({ status }) => UNFINISHED.includes(status));
  return unfinished.length ? JSON.stringify(unfinished) : null;
}

/** Whether nothing more happens to a file: its passages can be found, or it cannot be read. */
function isSettled(resource) {
  return resource.status === "failed" || (resource.status === "succeeded" && isPublished());
}

/** Whether what the files of the course contain can be found. */
function isPublished() {
  return course?.status === "done" && !course.due;
}

/** Shows a file, or its newer state. */
function showFile(resource) {
  const id = resource.resource_id;
  const known = rows.get(id);
  if (known && known.resource.status !== resource.status && resource.status === "succeeded") {
    course = null; // what is known of it is older than this
    courseChanged();
  }
  const item = known?.item ?? newRow(resource);
  rows.set(id, { item, resource });
  const part = (selector) => item.querySelector(selector);
  const facts = [resource.source_type && t("source", resource.source_type), size(resource.size), resource.chunks > 0 && t("files.passages", resource.chunks)];
  const [text, status, progress] = stateOf(resource);
  setText(part(".hint"), facts.filter(Boolean).join(" · "));
  setText(part(".state"), text);
  part(".state").dataset.status = status;
  part("progress").hidden = progress === null;
  part("progress").value = progress ?? 0;
  setText(part(".error"), resource.error ?? "");
  get("files-empty").hidden = true;
}

function setText(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** What is said of a file, a state of courses that has its colour, and the progress if there is one. */
function stateOf(resource) {
  const { status, progress } = resource;
  if (status === "running") return [t("file.running", percent(progress)), "running", progress];
  if (status !== "succeeded") return [t(`file.${status}`), status, null];
  if (isPublished()) return [t("file.searchable"), "done", null];
  if (course?.status !== "running") return [t("file.read"), "pending", null];
  return [t("file.embedding", percent(course.progress)), "running", null]; // the course has the bar
}

function newRow({ resource_id, name }) {
  const item = fromTemplate("file");
  item.querySelector(".name").textContent = name;
  item.querySelector("progress").ariaLabel = name;
  const chosen = element("input", { type: "file", hidden: true });
  chosen.addEventListener("change", async () => {
    const [file] = chosen.files;
    chosen.value = "";
    if (file && (await mayReplace(name))) upload(opened, file, name);
  });
  const replace = button(t("files.replace"), () => chosen.click());
  const remove = button(t("files.delete"), () => deleteFile(resource_id, name), "small danger");
  replace.ariaLabel = t("files.replaceNamed", name);
  remove.ariaLabel = t("files.deleteNamed", name);
  item.querySelector(".actions").append(replace, remove, chosen);
  get("files").append(item);
  return item;
}

async function deleteFile(id, name) {
  const text = t("files.deleteText");
  if (!(await confirmed({ title: t("files.deleteTitle", name), text, action: t("files.delete") }))) return;
  try {
    await call(`resources/${encodeURIComponent(id)}`, { method: "DELETE" });
    showError(null);
    announce(t("files.deleted", name));
    removeFile(id);
    get("files-empty").hidden = rows.size > 0;
    get("file-input").focus();
    courseChanged();
  } catch (error) {
    showError(error);
  }
  poller.wake();
}

function removeFile(id) {
  rows.get(id)?.item.remove();
  rows.delete(id);
}
