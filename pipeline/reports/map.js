"use strict";
// The map: every video as a dot. The dots are drawn once; only the ring around the current one moves.
(() => {
  const { byId, clamp, describe } = report;
  const { classes } = report.data;
  const area = byId("dots");
  if (!area) return; // an evaluation without a map
  const FULL = 10000; // positions are whole numbers from 0 to this
  const REACH = 14; // pixels from the pointer to a dot
  const MOST_NAMED = 12; // classes in the legend
  const canvas = area.querySelector("canvas"), pen = canvas.getContext("2d"), ring = byId("ring"), status = byId("dot");
  // Mistakes last: they are drawn on top, and are what the pointer finds first.
  const videos = report.data.videos.filter((video) => video.at).sort((a, b) => report.isRight(b) - report.isRight(a));
  let places = []; // [x, y] of each video in pixels
  let current = null, pointed = null; // indices of videos

  const hue = (label) => (360 * label) / classes.length;
  const colourOf = (label) => `hsl(${hue(label)} 65% ${label % 2 ? 42 : 55}%)`;

  function draw() {
    const width = area.clientWidth;
    if (!width) return; // hidden, for example in print
    const height = Math.round(clamp(width * 0.6, 300, 560));
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const size = clamp(Math.sqrt((width * height) / videos.length) / 4, 2, 6);
    const edge = size + 8;
    places = videos.map(({ at: [x, y] }) => [
      edge + (x / FULL) * (width - 2 * edge),
      edge + (1 - y / FULL) * (height - 2 * edge),
    ]);
    const style = getComputedStyle(document.documentElement);
    const [good, bad] = ["--good", "--bad"].map((name) => `rgb(${style.getPropertyValue(name)})`);
    const byClass = byId("map-colour").value === "class", only = byId("map-class").value;
    pen.lineWidth = Math.max(size / 2.5, 1.2);
    for (const [index, video] of videos.entries()) {
      const [x, y] = places[index], right = report.isRight(video);
      pen.globalAlpha = only === "" || video.true === Number(only) ? 0.8 : 0.08;
      pen.fillStyle = pen.strokeStyle = byClass ? colourOf(video.true) : right ? good : bad;
      pen.beginPath();
      if (right) {
        pen.arc(x, y, size, 0, 2 * Math.PI);
        pen.fill();
      } else {
        pen.moveTo(x - size, y - size);
        pen.lineTo(x + size, y + size);
        pen.moveTo(x + size, y - size);
        pen.lineTo(x - size, y + size);
        pen.stroke();
      }
    }
    placeRing();
  }

  function placeRing() {
    const marked = pointed ?? current;
    ring.hidden = marked === null;
    if (marked !== null) ring.style.transform = `translate(${places[marked][0]}px, ${places[marked][1]}px)`;
  }

  function showLegend() {
    const named = byId("map-colour").value === "class" && classes.length <= MOST_NAMED ? report.byName : [];
    byId("map-legend").replaceChildren(
      ...named.map((label) => {
        const swatch = element("span", { class: "swatch" });
        swatch.style.background = colourOf(label);
        return element("span", {}, swatch, classes[label]);
      }),
    );
  }

  // ---- Pointer and keyboard --------------------------------------------------------------------------------------

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let found = null, least = REACH ** 2;
    for (let index = places.length - 1; index >= 0; index--) {
      const distance = (places[index][0] - x) ** 2 + (places[index][1] - y) ** 2;
      if (distance < least) [found, least] = [index, distance];
    }
    return found;
  }

  function about(index) {
    const video = videos[index], text = `${video.id}: ${describe(video)}`;
    return video.strip ? [strip(video), text] : [text];
  }

  function onHover(event) {
    const before = pointed;
    pointed = nearest(event);
    if (pointed === null) report.hideTip();
    else report.showTip(event.clientX, event.clientY, ...(pointed === before ? [] : about(pointed)));
    if (pointed !== before) placeRing();
  }

  function onLeave() {
    pointed = null;
    report.hideTip();
    placeRing();
  }

  function moveTo(index) {
    [current, pointed] = [index, null];
    placeRing();
    status.textContent = `${videos[index].id}: ${describe(videos[index])}. Enter shows more.`;
    const box = canvas.getBoundingClientRect(), [x, y] = places[index];
    report.showTip(box.left + x, box.top + y, ...about(index));
  }

  const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

  // The nearest dot in a quarter of the plane. Of dots in the same place, right and down go to the next in the list, left
  // and up to the previous one, so that each can be reached.
  function neighbour(from, [right, down]) {
    const [x, y] = places[from], forward = right + down > 0;
    let found = null, least = Infinity;
    for (let count = 0; count < places.length; count++) {
      const index = forward ? count : places.length - 1 - count;
      const across = places[index][0] - x, below = places[index][1] - y;
      const along = across * right + below * down, aside = Math.abs(across * down) + Math.abs(below * right);
      const isHere = along === 0 && aside === 0;
      if (isHere ? (forward ? index <= from : index >= from) : along <= 0 || aside > along) continue;
      const distance = along ** 2 + aside ** 2;
      if (distance < least) [found, least] = [index, distance];
    }
    return found;
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in ARROWS) {
      const next = current === null ? 0 : neighbour(current, ARROWS[event.key]);
      if (next !== null) moveTo(next);
    } else if ((event.key === "Enter" || event.key === " ") && current !== null) report.openVideo(videos[current]);
    else return;
    event.preventDefault();
  }

  // ---- Start -----------------------------------------------------------------------------------------------------

  for (const label of report.byName) byId("map-class").append(element("option", { value: label }, classes[label]));
  byId("map-class").addEventListener("change", draw);
  byId("map-colour").addEventListener("change", () => {
    showLegend();
    draw();
  });
  canvas.addEventListener("pointermove", onHover);
  canvas.addEventListener("pointerleave", onLeave);
  canvas.addEventListener("click", (event) => {
    const index = pointed ?? nearest(event); // what the tip shows; a finger has no tip
    if (index === null) return;
    current = index;
    report.openVideo(videos[index]);
  });
  area.addEventListener("keydown", onKey);
  area.addEventListener("focus", () => area.matches(":focus-visible") && moveTo(current ?? 0));
  area.addEventListener("blur", report.hideTip);
  report.redraw(area, draw);
})();
