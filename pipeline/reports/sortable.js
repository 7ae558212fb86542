"use strict";
// Tables of class "sortable": a button in each column head sorts by that column. A cell's data-value takes precedence
// over its text. Numbers are sorted numerically, first in descending order; empty cells come last in both directions.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  for (const [column, head] of heads.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows].map((row) => {
        const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        return { row, text, number: text === "" ? NaN : Number(text) };
      });
      const isNumeric = rows.every(({ text, number }) => text === "" || !Number.isNaN(number));
      const before = head.getAttribute("aria-sort");
      const isAscending = before === null ? !isNumeric : before === "descending";
      const direction = isAscending ? 1 : -1;
      rows.sort((a, b) => {
        if ((a.text === "") !== (b.text === "")) return a.text === "" ? 1 : -1;
        return direction * (isNumeric ? a.number - b.number : a.text.localeCompare(b.text));
      });
      body.append(...rows.map(({ row }) => row));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
    });
  }
}
