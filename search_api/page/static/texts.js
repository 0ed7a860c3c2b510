// The texts of the interface, in the first language of the browser that there is: Chinese, else English.

import { chinese } from "./texts_zh.js";
import { english } from "./texts_en.js";

const first = navigator.languages.find((name) => /^(zh|en)\b/i.test(name)) ?? "en";
const isChinese = /^zh/i.test(first);
const texts = isChinese ? chinese : english;

export const language = isChinese ? "zh-Hans" : "en";
document.documentElement.lang = language;

/** A text by its name. Some texts take values. */
export function t(name, ...values) {
  const text = texts[name];
  if (text === undefined) throw new Error(`There is no text ${name}`);
  return typeof text === "function" ? text(...values) : text;
}

t.optional = (name) => (name in texts ? t(name) : "");

/** Writes the texts that `data-text`, `data-label` and `data-placeholder` name. */
export function localise(root) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) element.ariaLabel = t(element.dataset.label);
  for (const element of root.querySelectorAll("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
}

export const percent = (part) => new Intl.NumberFormat(language, { style: "percent" }).format(Math.floor(part * 100) / 100);
export const byName = new Intl.Collator(language, { numeric: true }).compare;

/** A size like `1.4 MB`. */
export function size(bytes) {
  const power = Math.max(0, Math.min(3, Math.floor(Math.log10(Math.max(bytes, 1)) / 3)));
  const unit = ["byte", "kilobyte", "megabyte", "gigabyte"][power];
  const options = { style: "unit", unit, unitDisplay: power ? "short" : "long", maximumFractionDigits: power > 1 ? 1 : 0 };
  return new Intl.NumberFormat(language, options).format(bytes / 1000 ** power);
}
