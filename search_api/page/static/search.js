// The form of a search: question, method and filters. What it asks is in the URL; an answer is shown by `results.js`.

import { call, coursePath } from "./api.js";
import { FILTERS, current, go } from "./address.js";
import { chip, element, fromTemplate, get, showError } from "./dom.js";
import { showAnswer, showSearching, titleOf } from "./results.js";
import { byName, t } from "./texts.js";

let searching = new AbortController();
let shownCourses = "";
let asked = ""; // of which search the facets are

export function prepareSearch() {
  get("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    go({ ...entered(), question: get("query").value.trim() });
  });
  for (const id of ["method", "weight", "top-k", "rerank"]) {
    get(id).addEventListener("change", () => go(entered()));
  }
  get("method").addEventListener("change", showWeight);
  get("weight").addEventListener("input", showWeight);
  get("options").addEventListener("toggle", () => get("options").open && loadFacets(current()));
  get("more-results").addEventListener("click", more);
}

/** What the URL would be with the options that are entered; the question is that of the last search. */
function entered() {
  const method = get("method").value;
  const isWeighted = method === "weights";
  return {
    ...current(),
    method: isWeighted ? "" : method,
    weight: isWeighted ? Number(get("weight").value) : null,
    topK: get("top-k").checkValidity() ? get("top-k").value : "",
    rerank: get("rerank").checked,
  };
}

/** Fills in the form and searches. */
export async function showSearch(shown) {
  searching.abort();
  get("query").value = shown.question;
  get("method").value = shown.weight === null ? shown.method : "weights";
  if (shown.weight !== null) get("weight").value = shown.weight;
  get("top-k").value = shown.topK;
  get("rerank").checked = shown.rerank;
  showWeight();
  showChips(shown);
  const isChanged = shown.method || shown.weight !== null || shown.topK || shown.rerank;
  if (isChanged || FILTERS.some((name) => shown.filters[name].length)) get("options").open = true;
  const courses = JSON.stringify(shown.courses);
  if (!shown.question.trim() || courses !== shownCourses) showAnswer(null); // else the old answer stays until the new one
  shownCourses = courses;
  if (get("options").open) loadFacets(shown);
  if (shown.question.trim()) await search(shown);
}

/** Searches again, because the course can answer now or has something newer. */
export function searchAgain() {
  const shown = current();
  if (shown.view === "search" && shown.question.trim()) search(shown);
}

async function search(shown, earlier = null) {
  searching.abort(); // the answer to an older question must not come after this one
  const { signal } = (searching = new AbortController());
  const started = performance.now();
  showSearching(true);
  try {
    const answer = await ask(shown, { explain: true, offset: earlier?.next_offset ?? 0 }, signal);
    showError(null);
    showAnswer(answer, { shown, milliseconds: Math.round(performance.now() - started), earlier });
    showChips(shown); // with the titles of the results
  } catch (error) {
    if (signal.aborted) return;
    if (!earlier) showAnswer(null);
    showError(error);
  } finally {
    if (!signal.aborted) showSearching(false);
  }
}

function more() {
  search(current(), get("more-results").answer);
}

function ask({ courses, question, filters, method, weight, topK, rerank }, extra, signal) {
  const only = Object.entries(filters).filter(([, values]) => values.length);
  const body = {
    query: question,
    ...(only.length && { filters: Object.fromEntries(only) }),
    ...(topK && { top_k: Number(topK) }),
    ...(method && { method }),
    ...(weight !== null && { weights: { vector: weight / 100, keyword: 1 - weight / 100 } }),
    ...(rerank && { rerank: "model" }),
    ...extra,
  };
  if (courses.length === 1) return call(coursePath(courses[0], "/search"), { body, signal });
  return call("search", { body: { ...body, courses: courses.length ? courses : null }, signal });
}

function showWeight() {
  const share = Number(get("weight").value);
  get("weight-field").hidden = get("method").value !== "weights";
  get("weight-value").textContent = get("weight").ariaValueText = t("method.share", share, 100 - share);
}

function showChips(shown) {
  const chips = FILTERS.flatMap((name) =>
    shown.filters[name].map((value) => {
      const text = `${t(`filter.${name}`)}: ${titleOf(name, value)}`;
      return chip(text, t("remove", text), () => {
        setFilter(name, value, false);
        get("query").focus();
      });
    }),
  );
  get("filters").replaceChildren(...chips);
  get("filters").hidden = chips.length === 0;
}

function setFilter(name, value, isChosen) {
  const shown = current();
  const others = shown.filters[name].filter((other) => other !== value);
  go({ ...shown, filters: { ...shown.filters, [name]: isChosen ? [...others, value] : others } });
}

/** Loads the values of the filters: those of the whole course, and the sections of the chosen lectures. */
async function loadFacets(shown) {
  get("facets-hint").hidden = Boolean(shown.question.trim());
  const { courses, question, filters } = shown;
  const wanted = JSON.stringify([courses, question, filters.lecture_id]);
  if (wanted === asked) {
    for (const box of get("facets").querySelectorAll("input")) box.checked = filters[box.name].includes(box.value);
    return;
  }
  asked = wanted;
  get("facets").replaceChildren();
  if (!question.trim()) return;
  const facetsOf = async (lectures, names) => {
    const lectureOnly = { courses, question, filters: { lecture_id: lectures }, method: "", weight: null, topK: "1" };
    // With an offset, so that it does not count as another question where questions are recorded.
    return (await ask(lectureOnly, { facets: names, offset: 1 })).facets ?? {};
  };
  try {
    const answers = await Promise.all([
      facetsOf([], ["lecture_id", "source_type"]),
      facetsOf(filters.lecture_id, ["section_id"]),
    ]);
    if (wanted === asked) showFacets(Object.assign({}, ...answers), current());
  } catch {
    asked = ""; // the search shows the error
  }
}

function showFacets(facets, shown) {
  const offered = Object.fromEntries(Object.entries(facets).map(([name, values]) => [name, recognisable(values)]));
  const shownFields = ["lecture_id", "section_id", "source_type"].filter((name) => offered[name]?.length > 1);
  const fieldsets = shownFields.map((name) => {
    const fieldset = fromTemplate("facet");
    fieldset.querySelector("legend").textContent = t(`filter.${name}`);
    const values = offered[name].map(({ value, title }) => ({ value: String(value), title: titleOf(name, String(value), title) }));
    values.sort((one, other) => byName(one.title, other.title));
    fieldset.querySelector("ul").append(...values.map((each) => facetValue(name, each, shown)));
    return fieldset;
  });
  const focused = document.activeElement?.closest("#facets") && document.activeElement;
  get("facets").replaceChildren(...fieldsets);
  if (focused) [...get("facets").querySelectorAll("input")].find(({ name, value }) => name === focused.name && value === focused.value)?.focus();
}

/** The values that people know: those with a title, if there are any. */
function recognisable(values) {
  const titled = values.filter(({ title }) => title);
  return titled.length ? titled : values;
}

function facetValue(name, { value, title }, shown) {
  const box = element("input", { type: "checkbox", name, value, checked: shown.filters[name].includes(value) });
  box.addEventListener("change", () => setFilter(name, value, box.checked));
  return element("li", {}, element("label", { className: "choice" }, box, element("span", { dir: "auto" }, title)));
}
