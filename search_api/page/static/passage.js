// A passage that was found: where it is, its text with the matching words marked, and the passages around it.

import { call, coursePath } from "./api.js";
import { announce, element, fromTemplate, get, safeUrl, setBar, showError } from "./dom.js";
import { percent, t } from "./texts.js";

const CONTEXT = 2;
const COPIED_MILLISECONDS = 2500;

/** The element of a result. `isSeveral` names its course, too. */
export function passageElement({ text, language, relevance, matches, citation, metadata, copy_count, near_copy_count, cut }, { isSeveral }) {
  const item = fromTemplate("result");
  const part = (selector) => item.querySelector(selector);
  const name = titles(citation).join(" › ") || citation.label || t("citation.untitled");
  part("h3").textContent = name;
  part(".relevance").hidden = relevance === null;
  part(".relevance span").textContent = relevance === null ? "" : t("relevance", percent(relevance));
  setBar(part(".relevance .value"), relevance ?? 0);
  const copies = copy_count + near_copy_count;
  const place = [isSeveral && (citation.course_title ?? citation.course_id), pageOf(citation), timeOf(citation)];
  place.push(citation.source_type && t("source", citation.source_type), copies > 0 && t("copies", copies), cutOf(cut));
  part(".place").replaceChildren(...place.filter(Boolean).map((text) => element("span", { dir: "auto" }, text)));
  part(".text").replaceChildren(...marked(text, matches));
  part(".text").lang = language ?? "";
  const source = safeUrl(citation.link);
  if (source) part(".source").href = source;
  else part(".source").remove();
  part(".copy").addEventListener("click", ({ currentTarget }) => copy(currentTarget, [citation.label ?? name, source]));
  part(".context").addEventListener("click", () => toggleContext(item, metadata.course_id, metadata.chunk_id));
  for (const selector of [".copy", ".context", ".why"]) describe(part(selector), name);
  return item;
}

/** Tells buttons of different results apart for those who don't see where they are. */
function describe(button, name) {
  button.ariaLabel = `${button.textContent.trim()}: ${name}`;
}

/** Titles of lecture and section. Ids say little, so they are shown only where there is no title at all. */
function titles({ lecture_title, lecture_id, section_title, section_id }) {
  const known = [lecture_title, section_title].filter(Boolean);
  return known.length ? known : [lecture_id, section_id].filter(Boolean);
}

const pageOf = ({ page, page_end }) => page !== null && t("page", page, page_end);
const timeOf = ({ start_time, end_time }) => start_time !== null && [start_time, end_time].filter(Boolean).join("–");
const cutOf = (cut) => cut.includes("text") && t("cut");

/** Splits the text into plain strings and <mark> elements. Matches are start and end in code points. */
function marked(text, matches) {
  const characters = [...text];
  const pieces = [];
  let end = 0;
  for (const [start, next] of matches) {
    pieces.push(characters.slice(end, start).join(""), element("mark", {}, characters.slice(start, next).join("")));
    end = next;
  }
  return [...pieces, characters.slice(end).join("")];
}

async function copy(button, lines) {
  const text = lines.filter(Boolean).join("\n");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copySelected(text, button); // a browser has no clipboard for pages without TLS
  }
  const label = button.querySelector("span");
  label.textContent = t("citation.copied");
  announce(t("citation.copied"));
  setTimeout(() => {
    label.textContent = t("citation.copy");
  }, COPIED_MILLISECONDS);
}

function copySelected(text, button) {
  const area = element("textarea", { value: text, className: "visually-hidden" });
  button.after(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  button.focus();
}

/** Shows or hides the passages before and after. */
async function toggleContext(item, courseId, chunkId) {
  const button = item.querySelector(".context");
  const isOpen = button.ariaExpanded === "true";
  button.ariaExpanded = !isOpen;
  for (const place of item.querySelectorAll(".neighbours")) place.replaceChildren();
  showError(null, item.querySelector(".error"));
  if (isOpen) return;
  button.ariaBusy = true;
  try {
    const path = coursePath(courseId, `/chunks/${encodeURIComponent(chunkId)}?context=${CONTEXT}`);
    const { before, after } = (await call(path)).context;
    if (button.ariaExpanded !== "true") return;
    item.querySelector(".before").append(...neighbours(before), ...edge(before, "context.start"));
    item.querySelector(".after").append(...neighbours(after), ...edge(after, "context.end"));
    announce(t("context.shown", before.length, after.length));
  } catch (error) {
    button.ariaExpanded = false;
    showError(error, item.querySelector(".error"));
  } finally {
    button.ariaBusy = false;
  }
}

function neighbours(passages) {
  return passages.map(({ text, metadata, citation, cut }) => {
    const place = [pageOf(citation), timeOf(citation), cutOf(cut)].filter(Boolean).join(" · ");
    const shown = element("p", { dir: "auto", lang: metadata.language ?? "" }, text);
    return element("div", { className: "neighbour" }, ...(place ? [element("p", { className: "place" }, place)] : []), shown);
  });
}

function edge(passages, text) {
  return passages.length ? [] : [element("p", { className: "hint" }, t(text))];
}
