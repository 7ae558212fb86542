"use strict";
// The mouse and the arrow keys move through time: they show the probabilities, and the frame at or before that time.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const pictures = JSON.parse(document.getElementById("pictures")?.textContent ?? "[]");
  const curves = document.getElementById("curves");
  const cursor = document.getElementById("cursor");
  const shown = document.getElementById("shown");
  const picture = shown.querySelector("img");
  const readout = document.getElementById("readout");
  const area = curves.querySelector("svg, .ends");
  let at = 0;

  // Index of the last time that is not later, or 0.
  function lastBefore(times, seconds) {
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (times[middle] <= seconds) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function clock(seconds) {
    const whole = Math.floor(seconds);
    const two = (number) => String(number).padStart(2, "0");
    const hours = whole >= 3600 ? `${Math.floor(whole / 3600)}:` : "";
    return `${hours}${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}.${Math.floor(10 * (seconds - whole))}`;
  }

  function show(seconds) {
    at = Math.min(data.end, Math.max(0, seconds));
    const point = lastBefore(data.times, at);
    const best = data.names
      .map((name, row) => [data.permille[row][point] ?? 0, name])
      .sort((first, second) => second[0] - first[0])
      .slice(0, 4);
    readout.textContent = [clock(at), ...best.map(([share, name]) => `${(share / 10).toFixed(1)} %  ${name}`)].join("\n");
    const [outer, inner] = [curves.getBoundingClientRect(), area.getBoundingClientRect()];
    cursor.style.left = `${inner.left - outer.left + (inner.width * at) / data.end}px`;
    cursor.hidden = shown.hidden = false;
    picture.hidden = !pictures.length;
    if (!pictures.length) return;
    const [time, source] = pictures[lastBefore(pictures.map(([time]) => time), at)];
    picture.src = source;
    picture.alt = `Frame at ${clock(time)}`;
  }

  curves.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * data.end);
  });
  curves.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.01, ArrowRight: 0.01, PageUp: -0.1, PageDown: 0.1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(at + step * data.end);
  });
}
