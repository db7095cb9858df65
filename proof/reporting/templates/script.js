"use strict";
/* Everything can be read without this: it only lets a click on a heading sort a table. */
const UNITS = { "µs": 1e-6, ms: 1e-3, s: 1, B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };
const amount = (text) => {
  const plain = text.replace(/,/g, "").replace(/\u2212/g, "-").replace(/^<\s*/, "");
  const power = plain.match(/×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)/u);
  const digits = power ? [...power[1]].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(sign)) : [];
  const exponent = digits.map((digit) => (digit ? digit - 1 : "-")).join("") || "0";
  const unit = UNITS[plain.split(/\s/u).pop()] || 1;
  return parseFloat(plain) * unit * 10 ** Number(exponent);
};
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = amount(text);
    return heads[column].classList.contains("number") ? (Number.isNaN(number) ? -Infinity : number) : text;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") === "descending" ||
        (!head.hasAttribute("aria-sort") && !head.classList.contains("number"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((left, right) => {
        const [a, b] = [value(left, column), value(right, column)];
        return (a < b ? -1 : a > b ? 1 : 0) * (ascending ? 1 : -1);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
