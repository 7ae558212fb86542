"use strict";
// What the sections of the report share: its data, the panel that shows videos, and the tip beside the pointer.
const report = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { classes, videos, unit } = data;
  const byId = (id) => document.getElementById(id);
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const plural = (number) => `${number.toLocaleString("en")} ${unit}${number === 1 ? "" : "s"}`;
  const confidence = (video) => video.top?.[0][1] ?? 0; // in tenths of a percent
  const isRight = (video) => video.predicted === video.true;
  const byName = classes.map((_, label) => label).sort((a, b) => classes[a].localeCompare(classes[b]));

  function describe(video) {
    if (video.predicted === undefined) return `True class ${classes[video.true]}, could not be decoded`;
    const answer = isRight(video) ? "classified correctly" : `classified as ${classes[video.predicted]}`;
    return `True class ${classes[video.true]}, ${answer} (${(confidence(video) / 10).toFixed(1)} %)`;
  }

  // ---- The tip ---------------------------------------------------------------------------------------------------

  const tip = byId("tip");
  const hideTip = () => (tip.hidden = true);

  // Shows text and elements beside a point of the window.
  function showTip(x, y, ...content) {
    if (content.length) tip.replaceChildren(...content);
    tip.hidden = false;
    tip.style.left = `${clamp(x + 14, 0, Math.max(window.innerWidth - tip.offsetWidth - 8, 0))}px`;
    const below = y + 18;
    tip.style.top = `${below + tip.offsetHeight > window.innerHeight ? y - tip.offsetHeight - 10 : below}px`;
  }

  // ---- The panel -------------------------------------------------------------------------------------------------

  const PER_PAGE = 20;
  const panel = byId("panel"), videoCard = videoCards(data);
  let list = []; // the videos that the panel goes through
  let shown = null; // the one that it shows, if it shows one

  function open(title, cards) {
    byId("panel-title").textContent = title;
    byId("panel-videos").replaceChildren(...cards);
    const canStep = shown !== null && list.some((video) => video !== shown);
    byId("panel-previous").hidden = byId("panel-next").hidden = !canStep;
    const place = list.indexOf(shown);
    byId("panel-place").textContent = place < 0 ? "" : `${(place + 1).toLocaleString("en")} of ${list.length.toLocaleString("en")}`;
    byId("panel-more").hidden = true;
    hideTip();
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
  }

  // Shows several videos, the most confident first.
  function openVideos(title, several) {
    const sorted = [...several].sort((a, b) => confidence(b) - confidence(a));
    let next = PER_PAGE;
    shown = null;
    open(title, sorted.slice(0, next).map(videoCard));
    byId("panel-more").hidden = next >= sorted.length;
    byId("panel-more").onclick = () => {
      byId("panel-videos").append(...sorted.slice(next, next + PER_PAGE).map(videoCard));
      next += PER_PAGE;
      byId("panel-more").hidden = next >= sorted.length;
    };
  }

  function openVideo(video) {
    shown = video;
    open(describe(video), [videoCard(video)]);
  }

  // The next (1) or previous (-1) video of the list, round and round. From a video that is not in it: its first or last.
  function step(direction) {
    if (byId("panel-next").hidden) return;
    const place = list.indexOf(shown);
    openVideo(list[place < 0 ? (direction > 0 ? 0 : list.length - 1) : (place + direction + list.length) % list.length]);
  }

  const KEYS = { n: 1, p: -1 };
  panel.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.altKey && !event.metaKey && event.key in KEYS) step(KEYS[event.key]);
  });
  byId("panel-next").addEventListener("click", () => step(1));
  byId("panel-previous").addEventListener("click", () => step(-1));
  byId("panel-close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => event.target === panel && panel.close()); // a click outside of it
  document.documentElement.classList.add("scripted");

  // Comparisons of runs link to report.html#video=ID.
  function openLinked() {
    const [key, id] = location.hash.slice(1).split("=");
    const video = key === "video" && videos.find((candidate) => candidate.id === decodeURIComponent(id));
    if (video) openVideo(video);
  }

  return {
    data, byId, clamp, plural, byName, confidence, isRight, describe, showTip, hideTip, openVideos, openVideo, openLinked,
    // Sets the videos that the panel goes through.
    goThrough: (several) => (list = several),
    // Calls `draw` where the colours or the size of `area` change.
    redraw: (area, draw) => {
      document.addEventListener("themechange", draw);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
      new ResizeObserver(draw).observe(area);
    },
  };
})();
