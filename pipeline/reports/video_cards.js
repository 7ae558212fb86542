"use strict";
// Makes an element; text among its children stays text.
function element(name, attributes = {}, ...children) {
  const isPicture = ["svg", "polyline", "line", "text"].includes(name);
  const made = isPicture ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// The frames of a video side by side, from start to end.
function strip(video) {
  return element("img", { class: "strip", src: video.strip, alt: `Frames of ${video.id}, from start to end`, loading: "lazy" });
}

// Returns a function that makes the card of a video: its frames, its five most probable classes, and the class
// probabilities after each frame. `unit` is the name of one row, "video" or "digit".
function videoCards({ classes, unit, hasStrips }) {
  const roleOf = (video, label) =>
    label === video.true ? "is-true" : label === video.predicted ? "is-predicted" : "is-next";

  function videoCard(video) {
    const card = element("article", { class: "video" }, element("h3", {}, video.id));
    if (video.strip) {
      card.append(strip(video));
    } else if (hasStrips) {
      const why = `No frames: this ${unit} could not be read, or no strip was made for it.`;
      card.append(element("p", { class: "quiet" }, why));
    }
    const answers = element("div", { class: "answers" });
    if (video.top) answers.append(element("ol", { class: "top" }, ...video.top.map((answer) => bar(video, answer))));
    else answers.append(element("p", {}, `This ${unit} could not be decoded, so it has no prediction.`));
    if (video.curves) answers.append(curves(video));
    card.append(answers);
    return card;
  }

  function bar(video, [label, permille]) {
    const percent = `${(permille / 10).toFixed(1)} %`;
    const meter = element("span", { class: `meter ${roleOf(video, label)}`, "aria-hidden": "true" });
    meter.style.setProperty("--share", `${permille / 10}%`);
    const name = classes[label] + (label === video.true ? " ✓" : "");
    return element("li", {}, element("span", { title: name }, name), meter, element("span", { class: "figure" }, percent));
  }

  // Probability over time: one line each for the true class, the predicted class and the next best.
  function curves(video) {
    const width = 340, height = 120, left = 34, bottom = 16, top = 6;
    const roles = { "is-true": "true class", "is-predicted": "predicted class", "is-next": "next best" };
    const last = (points) => points[points.length - 1];
    const about = video.curves.map(([label, points]) => `${classes[label]} ends at ${last(points)} %`).join(", ");
    const picture = element("svg", {
      class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Probability over time: ${about}`,
    });
    const y = (percent) => top + (1 - percent / 100) * (height - top - bottom);
    for (const percent of [0, 50, 100]) {
      picture.append(
        element("line", { class: "axis", x1: left, x2: width, y1: y(percent), y2: y(percent) }),
        element("text", { x: left - 4, y: y(percent) + 3, "text-anchor": "end" }, `${percent} %`),
      );
    }
    const end = `${video.frames} stored frame${video.frames === 1 ? "" : "s"}`;
    picture.append(
      element("text", { x: left, y: height - 2 }, "1"),
      element("text", { x: width, y: height - 2, "text-anchor": "end" }, end),
    );
    for (const [label, points] of [...video.curves].reverse()) {
      const drawn = points.length > 1 ? points : [points[0], points[0]];
      const at = drawn.map((p, i) => `${left + (i / (drawn.length - 1)) * (width - left)},${y(p).toFixed(1)}`);
      picture.append(element("polyline", { class: roleOf(video, label), points: at.join(" ") }));
    }
    const legend = video.curves.map(([label]) => {
      const role = roleOf(video, label);
      return element("span", { class: role }, `${{ "is-true": "━", "is-predicted": "╍", "is-next": "┈" }[role]} ${roles[role]}: ${classes[label]}  `);
    });
    return element("div", {}, picture, element("p", { class: "legend" }, ...legend));
  }

  return videoCard;
}
