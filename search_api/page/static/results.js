// The answer to a search: what it says as a whole, and its passages.

import { element, get } from "./dom.js";
import { explain } from "./explanation.js";
import { passageElement } from "./passage.js";
import { t } from "./texts.js";

const titles = new Map(); // the titles of lectures and sections that are known, by field and id
let pages = []; // the answers that are shown, each one continuing the one before

/** The title of a lecture or section; its id if none is known. `title` is remembered if it is given. */
export function titleOf(field, id, title = null) {
  if (field === "source_type") return t("source", id);
  const key = JSON.stringify([field, id]);
  if (title) titles.set(key, title);
  return titles.get(key) ?? id;
}

export function showSearching(isSearching) {
  get("answer").ariaBusy = isSearching;
  get("ask").disabled = isSearching;
  if (isSearching && pages.length === 0) get("summary").textContent = t("searching");
}

/**
 * Shows an answer after the results of `earlier`, the one that it continues. null removes everything.
 * `shown` is what was asked.
 */
export function showAnswer(answer, { shown, milliseconds, earlier = null } = {}) {
  if (earlier && sameVersion(earlier, answer)) pages.push(answer);
  else pages = answer ? [answer] : [];
  const results = pages.flatMap((each) => each.results);
  const isSeveral = shown?.courses.length !== 1;
  for (const { citation } of answer?.results ?? []) {
    titleOf("lecture_id", citation.lecture_id, citation.lecture_title);
    titleOf("section_id", citation.section_id, citation.section_title);
  }
  const isReranked = shown?.rerank && !answer?.degraded?.includes("not reranked"); // there may be no rerank model
  const added = (answer?.results ?? []).map((result) => resultElement(result, { isReranked, isSeveral }));
  if (pages.length > 1) get("results").append(...added);
  else get("results").replaceChildren(...added);
  get("results").start = 1;
  get("results-title").hidden = results.length === 0;
  showVerdict(pages[0] ?? null, shown);
  get("notes").replaceChildren(...(answer ? notesOf(pages[0], shown) : []));
  const summary = pages.length > 1 ? t("results.shown", results.length) : t("results.count", results.length, milliseconds);
  get("summary").textContent = results.length ? summary : "";
  get("more-results").hidden = !answer?.next_offset || added.length === 0;
  get("more-results").answer = answer;
  if (pages.length > 1) added[0]?.querySelector("h3").focus();
}

/** Whether both answers are of the same publication, so that they neither overlap nor leave anything out. */
function sameVersion(one, other) {
  const version = ({ generation, courses }) => JSON.stringify(generation ?? courses.map((each) => [each.course_id, each.generation]));
  return version(one) === version(other);
}

/** Says plainly if nothing was found, or nothing that seems to answer. */
function showVerdict(answer, shown) {
  const verdict = get("verdict");
  verdict.hidden = !answer || (answer.results.length > 0 && answer.answerable !== false);
  if (verdict.hidden) return;
  const texts = [];
  const isFiltered = Object.values(shown.filters).some((values) => values.length);
  const scope = isFiltered ? "Filtered" : shown.courses.length === 1 ? "" : "Several";
  const isIrrelevant = answer.answerable === false && !(isFiltered && answer.results.length === 0);
  verdict.querySelector("h2").textContent = t(isIrrelevant ? `verdict.irrelevant${scope}` : "verdict.nothing");
  if (answer.results.length) texts.push(t("verdict.nearest"));
  else if (answer.courses?.length === 0) texts.push(t("verdict.noCourse"));
  else if (isFiltered) texts.push(t("verdict.filtered"));
  else texts.push(t("verdict.noMatch"));
  if (answer.unknown_terms.length) texts.push(t("note.unknown", t("words", answer.unknown_terms)));
  verdict.replaceChildren(verdict.querySelector("h2"), ...texts.map((text) => element("p", {}, text)));
}

function notesOf(answer, shown) {
  const note = (...children) => element("p", { className: "note" }, ...children);
  const fromServer = (text) => element("span", { lang: "en" }, text);
  const notes = [];
  if (get("verdict").hidden && answer.unknown_terms.length) notes.push(note(t("note.unknown", t("words", answer.unknown_terms))));
  if (answer.stale && shown.courses.length === 1) notes.push(note(t("note.stale")));
  if (answer.degraded) notes.push(note(t("note.degraded"), " ", fromServer(answer.degraded)));
  for (const { characters } of answer.query_cut ?? []) {
    notes.push(note(characters ? t("note.cut", characters.used, characters.of) : t("note.cutTokens")));
  }
  for (const { course_id, state, degraded, error } of answer.courses ?? []) {
    if (state === "searched") continue;
    const lead = state === "stale" ? `${course_id}: ` : `${t("note.notSearched", course_id)} `;
    const reason = error?.message ?? degraded;
    notes.push(note(lead, t(`state.${state}`), t("stop"), ...(reason ? [" ", fromServer(reason)] : [])));
  }
  return notes;
}

function resultElement(result, { isReranked, isSeveral }) {
  const item = passageElement(result, { isSeveral });
  explain(item, result, { isReranked });
  return item;
}
