"use strict";
(() => {
  const root = document.documentElement, all = (what, within) => [...(within || document).querySelectorAll(what)];
  const made = (kind, text, name) => Object.assign(document.createElement(kind), { textContent: text, className: name || "" });

  // light or dark: the system's choice until the reader's own
  const dark = matchMedia("(prefers-color-scheme: dark)"), kept = "lossmith-theme";
  const theme = made("button", "", "button");
  const show = () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    theme.textContent = now === "dark" ? "Light colours" : "Dark colours";
    theme.onclick = () => {
      root.dataset.theme = now === "dark" ? "light" : "dark";
      try { localStorage.setItem(kept, root.dataset.theme); } catch { /* a browser may forbid it to files */ }
      show();
    };
  };
  try { const before = localStorage.getItem(kept); if (before === "dark" || before === "light") root.dataset.theme = before; } catch { /* as above */ }
  dark.addEventListener("change", show);
  show();
  document.querySelector(".top").append(theme);

  // tables: a click on a heading sorts by it, another turns the order round; what has no number comes last
  const value = (cell) => {
    const given = cell.dataset.value;
    if (given === undefined) return cell.textContent.trim().toLowerCase();
    return given === "" || Number.isNaN(Number(given)) ? null : Number(given);
  };
  const sort = (table, heading) => {
    const place = heading.cellIndex, turned = heading.getAttribute("aria-sort") === "ascending", sign = turned ? -1 : 1;
    all("th[aria-sort]", table.tHead).forEach((one) => one.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", turned ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[place]), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * (a > b ? 1 : a < b ? -1 : 0)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  all("table.sorts").forEach((table) => all("thead tr:last-child th", table).forEach((heading) => {
    if (!heading.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading));
  }));

  // charts: what a mark stands for, under the pointer, or with the arrow keys once a chart has the focus
  const tip = made("div", "");
  tip.id = "tip";
  tip.setAttribute("role", "status");
  document.body.append(tip);
  const marks = new WeakMap();
  let told = null;
  const hide = () => { if (told) told.classList.remove("told"); told = null; tip.textContent = ""; };
  const tell = (mark) => {
    if (told !== mark) hide();
    told = mark;
    mark.classList.add("told");
    tip.textContent = mark.dataset.tip;
    const box = (mark.querySelector("circle") || mark).getBoundingClientRect(), size = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(innerWidth - size.width - 6, box.left + box.width / 2 - size.width / 2)) + "px";
    tip.style.top = (box.top - size.height - 8 < 4 ? box.bottom + 8 : box.top - size.height - 8) + "px";
  };
  all("svg.tips").forEach((chart) => {
    const own = all("title", chart).map((title) => {
      const mark = title.parentNode;
      mark.dataset.tip = title.textContent;
      title.remove();
      return mark;
    });
    if (!own.length) return;
    marks.set(chart, own);
    chart.setAttribute("tabindex", "0");
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const now = own.indexOf(told), next = now < 0 ? (step > 0 ? 0 : own.length - 1) : now + step;
      tell(own[Math.max(0, Math.min(own.length - 1, next))]);
    });
    chart.addEventListener("blur", () => { if (own.includes(told)) hide(); });
    chart.addEventListener("pointerover", (event) => { const mark = event.target.closest("[data-tip]"); if (mark) tell(mark); });
    // a pointer that leaves, as it does when the page scrolls beneath it, takes nothing from the keyboard or from another chart
    chart.addEventListener("pointerleave", () => { if (own.includes(told) && document.activeElement !== chart) hide(); });
  });

  // what is to be used elsewhere can be copied
  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed here: the old way */ }
    const area = made("textarea", text);
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  all("[data-copy]").forEach((source) => {
    const button = made("button", "Copy " + source.dataset.copy, "button"), place = made("div", "", "copied");
    button.type = "button";
    button.addEventListener("click", async () => {
      button.textContent = (await copy(source.textContent)) ? "Copied" : "Select it, and copy";
      setTimeout(() => { button.textContent = "Copy " + source.dataset.copy; }, 1600);
    });
    place.append(button);
    source.after(place);
  });

  // a link to a study opens it; paper shows everything
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => all("details").forEach((one) => { one.open = true; }));
})();
