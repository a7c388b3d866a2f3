// Makes the zoo's table sortable and filterable. Without this script it is a plain table.
//
// A column sorts by numbers where it is set right, otherwise by words. A header's `data-filter` says what its column is
// filtered by: `choice` of one of its values, `most` or `least` of a number. Empty cells come last and fit no filter.
(() => {
  const table = document.querySelector(".zoo table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const columns = [...table.tHead.rows[0].cells].map((header, index) => ({
    header,
    index,
    title: header.textContent.trim(),
    filter: header.dataset.filter,
    numeric: header.style.textAlign === "right",
  }));
  const english = {
    any: "any", search: "search", reset: "Reset", most: " at most", least: " at least",
    sortBy: (title) => `Sort by ${title}`,
    shown: (count, all) => `${count} of ${all} shown`,
  };
  const chinese = {
    any: "不限", search: "搜索", reset: "重置", most: "：不超过", least: "：不低于",
    sortBy: (title) => `按${title}排序`,
    shown: (count, all) => `显示 ${count} / ${all} 行`,
  };
  const words = document.documentElement.lang === "zh" ? chinese : english;
  const value = (row, column) => row.cells[column.index].textContent.trim();

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function compare(column, a, b) {
    return column.numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
  }

  function sort(column) {
    const descending = column.header.getAttribute("aria-sort") === "ascending";
    for (const { header } of columns) header.removeAttribute("aria-sort");
    column.header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sorted = rows.toSorted((one, other) => {
      const [a, b] = [value(one, column), value(other, column)];
      if (!a || !b) return Boolean(b) - Boolean(a);
      return descending ? compare(column, b, a) : compare(column, a, b);
    });
    body.append(...sorted);
  }

  const controls = [];
  const search = make("input", { type: "search", name: "search", autocomplete: "off" });
  const shown = make("output", { className: "zoo-count" });

  function filter() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const fits = controls.every(({ column, input }) => {
        const [wanted, found] = [input.value, value(row, column)];
        if (!wanted) return true;
        if (!found) return false;
        if (column.filter === "choice") return found === wanted;
        return column.filter === "most" ? Number(found) <= Number(wanted) : Number(found) >= Number(wanted);
      });
      row.hidden = !fits || !wanted.every((word) => row.textContent.toLowerCase().includes(word));
    }
    shown.value = words.shown(rows.filter((row) => !row.hidden).length, rows.length);
  }

  for (const column of columns) {
    const button = make("button", { type: "button", title: words.sortBy(column.title) }, column.title);
    button.addEventListener("click", () => sort(column));
    column.header.replaceChildren(button);
    // On a phone each row becomes a card, whose lines say what they are.
    for (const row of rows) row.cells[column.index].dataset.title = column.title;
    if (!column.filter) continue;
    let input;
    if (column.filter === "choice") {
      const choices = [...new Set(rows.map((row) => value(row, column)))].filter(Boolean).sort();
      input = make("select", { name: column.title }, new Option(words.any, ""), ...choices.map((word) => new Option(word)));
    } else {
      input = make("input", { type: "number", name: column.title, step: "any", min: 0, inputMode: "decimal" });
    }
    controls.push({ column, input });
  }

  const bounds = { choice: "", most: words.most, least: words.least };
  const labels = controls.map(({ column, input }) => make("label", {}, column.title + bounds[column.filter], input));
  const form = make(
    "form",
    { className: "zoo-filters" },
    make("label", {}, words.search, search),
    ...labels,
    make("button", { type: "reset", className: "md-button" }, words.reset),
    shown,
  );
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter)); // the fields are emptied after the event
  form.addEventListener("submit", (event) => event.preventDefault());
  table.closest(".zoo").prepend(form);
  table.classList.add("zoo-table");
  filter();
})();
