"use strict";
// The list of videos: filters, flip-books, and the ids of the listed or ticked ones.
(() => {
  const { byId, plural, confidence, isRight } = report;
  const { classes, groups, videos, hasStrips } = report.data;
  const PER_PAGE = 20, NUM_FRAMES = 8;
  const body = byId("video-list").tBodies[0];
  const ticked = new Set();
  let listed = [], shown = 0;

  // ---- Filter ----------------------------------------------------------------------------------------------------

  const value = (name) => byId(`filter-${name}`)?.value ?? "";
  const percent = (permille) => (permille / 10).toFixed(1);
  const answers = {
    wrong: (video) => !isRight(video),
    right: isRight,
    missing: (video) => video.predicted === undefined,
    all: () => true,
  };
  const orders = {
    high: (a, b) => confidence(b) - confidence(a),
    low: (a, b) => confidence(a) - confidence(b),
    name: (a, b) => a.id.localeCompare(b.id),
  };

  function filter() {
    const low = 10 * Number(value("low")), high = 10 * Number(value("high") || 100);
    const chosen = ["true", "predicted", "group"].filter((key) => value(key)).map((key) => [key, Number(value(key))]);
    const matches = (video) =>
      answers[value("answer")](video) &&
      confidence(video) >= low && confidence(video) <= high &&
      chosen.every(([key, number]) => video[key] === number);
    listed = videos.filter(matches).sort(orders[value("sort")]);
    report.goThrough(listed);
    shown = 0;
    body.replaceChildren();
    showMore();
    showNumbers();
  }

  function showMore() {
    body.append(...listed.slice(shown, shown + PER_PAGE).map(row));
    shown += PER_PAGE;
    byId("list-more").hidden = shown >= listed.length;
  }

  function row(video) {
    const box = element("input", { type: "checkbox", "aria-label": `Tick ${video.id}` });
    box.checked = ticked.has(video);
    box.addEventListener("change", () => {
      box.checked ? ticked.add(video) : ticked.delete(video);
      showNumbers();
    });
    const name = element("button", { type: "button", class: "text-button" }, video.id);
    name.addEventListener("click", () => report.openVideo(video));
    const about = element("div", { class: "row" }, box, ...(video.strip ? [flipBook(video)] : []), name);
    const [answer, ...shares] =
      video.predicted === undefined
        ? ["not decoded", "–", "–"]
        : [classes[video.predicted], percent(confidence(video)), percent(video.truth ?? confidence(video))];
    return element(
      "tr", {},
      element("th", { scope: "row", class: "name" }, about),
      ...[classes[video.true], answer].map((text) => element("td", { class: "name" }, text)),
      ...shares.map((text) => element("td", { class: "figure" }, text)),
    );
  }

  function flipBook(video) {
    const picture = element("img", { src: video.strip, alt: `Frames of ${video.id}`, loading: "lazy" });
    const book = element("div", { class: "flip" }, picture);
    const fit = () => (book.style.aspectRatio = `${picture.naturalWidth / NUM_FRAMES} / ${picture.naturalHeight}`);
    picture.addEventListener("load", fit);
    book.addEventListener("click", () => report.openVideo(video));
    return book;
  }

  // ---- Ids -------------------------------------------------------------------------------------------------------

  function showNumbers() {
    byId("listed").textContent = `${plural(listed.length)} of ${videos.length.toLocaleString("en")}`;
    const number = ticked.size || listed.length;
    byId("copy").textContent = `Copy the ids of the ${number.toLocaleString("en")} ${ticked.size ? "ticked" : "listed"}`;
    byId("copy").disabled = !number;
    byId("untick").hidden = !ticked.size;
    byId("ids").hidden = true;
  }

  async function copy() {
    const chosen = ticked.size ? videos.filter((video) => ticked.has(video)) : listed;
    const text = chosen.map((video) => `${video.id}\n`).join("");
    try {
      await navigator.clipboard.writeText(text);
      byId("ids").hidden = true;
      byId("listed").textContent = `${plural(chosen.length)} copied, one id per line.`;
    } catch {
      // The browser may not let a page write to the clipboard: the reader copies the selected text.
      byId("ids").hidden = false;
      byId("ids").value = text;
      byId("ids").select();
      byId("listed").textContent = "This browser does not let the page copy: press Ctrl+C or ⌘C.";
    }
  }

  // ---- Start -----------------------------------------------------------------------------------------------------

  const offer = (name, values, names) =>
    byId(`filter-${name}`)?.append(...values.map((number) => element("option", { value: number }, names[number])));
  offer("true", report.byName, classes);
  offer("predicted", report.byName, classes);
  offer("group", [...groups.keys()].sort((a, b) => groups[a].localeCompare(groups[b], "en", { numeric: true })), groups);
  if (videos.every(isRight)) byId("filter-answer").value = "all";
  for (const name of ["answer", "true", "predicted", "group", "low", "high", "sort"]) {
    byId(`filter-${name}`)?.addEventListener(name === "low" || name === "high" ? "input" : "change", filter);
  }
  byId("list-more").addEventListener("click", showMore);
  byId("copy").addEventListener("click", copy);
  byId("untick").addEventListener("click", () => {
    ticked.clear();
    for (const box of body.querySelectorAll("input")) box.checked = false;
    showNumbers();
  });
  filter();
  report.openLinked();
  window.addEventListener("hashchange", report.openLinked);
})();
