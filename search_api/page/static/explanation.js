// How a result got its place: the scores as bars with their numbers, the searched words, and the metadata.

import { element, fromTemplate, setBar } from "./dom.js";
import { percent, t } from "./texts.js";

const decimal = (value) => value.toFixed(3);

/** Lets the button of a result show the explanation. `isReranked`: its score is the rerank model's. */
export function explain(item, result, { isReranked }) {
  const [button, shown] = [item.querySelector(".why"), item.querySelector(".explanation")];
  button.addEventListener("click", () => {
    shown.hidden = !shown.hidden;
    button.ariaExpanded = !shown.hidden;
    shown.querySelector("tbody").replaceChildren(...scoresOf(result, isReranked).map(row));
    shown.querySelector(".terms").replaceChildren(...termsOf(result.explanation));
    shown.querySelector("dl").replaceChildren(...entriesOf(result.metadata));
  });
}

/** The rows: name, text of the value, remark, and the bar or the two parts of it. */
function scoresOf({ score, relevance, explanation }, isReranked) {
  const rows = [];
  if (explanation) {
    const { cosine, bm25, keyword_share, vector_part, keyword_part, weights } = explanation;
    const weight = (name) => weights && weights[name].toFixed(2);
    if (cosine !== null) rows.push(["vector", decimal(cosine), t("score.cosine", weight("vector")), cosine]);
    rows.push(["keyword", decimal(keyword_share), t("score.bm25", bm25.toFixed(1), weight("keyword")), 0, keyword_share]);
    const parts = t("score.parts", decimal(vector_part), decimal(keyword_part));
    rows.push(["fused", decimal(vector_part + keyword_part), parts, vector_part, keyword_part]);
  }
  if (isReranked) rows.push(["reranked", decimal(score), t("score.model"), score]);
  if (relevance !== null) rows.push(["relevance", percent(relevance), t("score.chance"), relevance]);
  return rows;
}

function row([name, value, remark, part, second = 0]) {
  const made = fromTemplate("score");
  const [bar, number, hint] = made.querySelectorAll("td");
  made.querySelector("th").textContent = t(`score.${name}`);
  setBar(bar.querySelector(".value"), part);
  setBar(bar.querySelector(".second"), second, Math.max(0, part));
  number.textContent = value;
  hint.textContent = remark;
  return made;
}

function termsOf(explanation) {
  if (!explanation) return [];
  const { terms, expansions } = explanation;
  const texts = Object.entries(expansions).map(([word, instead]) => t("why.expansion", word, t("words", instead)));
  if (terms.length) texts.unshift(t("why.terms", t("words", terms)));
  return texts.map((text) => element("p", { dir: "auto" }, text));
}

function entriesOf(metadata) {
  const known = Object.entries(metadata).filter(([, value]) => value !== null);
  return known.flatMap(([name, value]) => {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    return [element("dt", { dir: "auto" }, name), element("dd", { dir: "auto" }, text)];
  });
}
