"use strict";
// The interactive confusion matrix.
(() => {
  const { byId, clamp, plural, hideTip, showTip } = report;
  const { classes, clusters, videos, unit } = report.data;

  // ---- Cells -----------------------------------------------------------------------------------------------------

  const MISSING = classes.length; // the column of videos without a prediction
  const NAMES = [...classes, "(missing)"];
  const hasMissing = videos.some((video) => video.predicted === undefined);
  const support = classes.map(() => 0);
  const cells = new Map(); // a cell's key -> its videos
  const keyOf = (actual, predicted) => actual * NAMES.length + predicted;
  for (const video of videos) {
    const key = keyOf(video.true, video.predicted ?? MISSING);
    support[video.true] += 1;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(video);
  }
  const videosIn = (actual, predicted) => cells.get(keyOf(actual, predicted)) ?? [];
  const shareOf = (actual, predicted) => videosIn(actual, predicted).length / Math.max(support[actual], 1);
  const recall = classes.map((_, label) => (support[label] ? shareOf(label, label) : Infinity));
  const fullest = Math.max(...[...cells.values()].map((inside) => inside.length));

  const inOrder = classes.map((_, label) => label);
  const orders = {
    name: [...inOrder].sort((a, b) => classes[a].localeCompare(classes[b])),
    accuracy: [...inOrder].sort((a, b) => recall[a] - recall[b] || a - b),
    clusters,
  };

  function describe(actual, predicted) {
    const number = videosIn(actual, predicted).length;
    const share = support[actual] ? ` of ${support[actual]} (${(100 * shareOf(actual, predicted)).toFixed(1)} %)` : "";
    let answer = `classified as ${NAMES[predicted]}`;
    if (actual === predicted) answer = "classified correctly";
    if (predicted === MISSING) answer = "could not be decoded";
    return `True class ${classes[actual]}, ${answer}: ${plural(number)}${share}`;
  }

  // ---- The matrix ------------------------------------------------------------------------------------------------

  const SMALLEST = 2, LARGEST = 72; // pixels of a cell
  const area = byId("matrix"), status = byId("cell");
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const extent = document.createElement("div"); // has the size of the whole matrix; the canvas shows the visible part
  extent.append(canvas);
  area.append(extent);

  const numRows = classes.length, numColumns = classes.length + (hasMissing ? 1 : 0);
  let order = orders.name, size = 0, threshold = 0, showsCounts = false;
  let current = null, hovered = null; // { row, column }: positions in the current order, not classes

  const classAt = (position) => order[position] ?? MISSING;
  const videosAt = (cell) => videosIn(order[cell.row], classAt(cell.column));
  const valueOf = (actual, predicted) =>
    showsCounts ? videosIn(actual, predicted).length : 100 * shareOf(actual, predicted);
  const isShown = (actual, predicted) => {
    const value = valueOf(actual, predicted);
    return value > 0 && value >= threshold;
  };
  const fontSize = () => clamp(size - 1, 8, 12);
  const hasNames = () => size >= 8;
  // The space for the names, left of and above the cells.
  function edge() {
    if (!hasNames()) return 4;
    pen.font = `bold ${fontSize()}px system-ui, sans-serif`; // marked names are bold
    const widest = Math.max(...NAMES.slice(0, numColumns).map((name) => pen.measureText(name).width));
    return Math.ceil(Math.min(widest + 12, 170, area.clientWidth / 3));
  }

  function resize() {
    extent.style.width = `${edge() + numColumns * size + 1}px`;
    extent.style.height = `${edge() + numRows * size + 1}px`;
    draw();
  }

  function draw() {
    if (!area.clientWidth) return; // hidden, for example in print
    const left = edge(), top = left;
    const width = Math.min(area.clientWidth, left + numColumns * size + 1);
    const height = Math.min(area.clientHeight, top + numRows * size + 1);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const x = (column) => left + column * size - area.scrollLeft;
    const y = (row) => top + row * size - area.scrollTop;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width - left, height - top);
    pen.clip();
    drawGrid(x, y, colour);
    drawCells(x, y, colour);
    pen.restore();
    if (hasNames()) drawNames(x, y, left, top, colour);
  }

  function drawGrid(x, y, colour) {
    pen.fillStyle = colour("--card");
    for (let row = 0; row < numRows; row++) {
      if (!support[order[row]]) pen.fillRect(x(0), y(row), numColumns * size, size);
    }
    const marked = hovered ?? current;
    if (marked) {
      pen.fillRect(x(0), y(marked.row), numColumns * size, size);
      pen.fillRect(x(marked.column), y(0), size, numRows * size);
    }
    pen.strokeStyle = colour("--line");
    pen.lineWidth = 0.5;
    pen.strokeRect(x(0), y(0), numColumns * size, numRows * size);
    if (size < 6) return;
    pen.beginPath();
    for (let column = 1; column < numColumns; column++) {
      pen.moveTo(x(column), y(0));
      pen.lineTo(x(column), y(numRows));
    }
    for (let row = 1; row < numRows; row++) {
      pen.moveTo(x(0), y(row));
      pen.lineTo(x(numColumns), y(row));
    }
    pen.stroke();
  }

  function drawCells(x, y, colour) {
    const good = colour("--good"), bad = colour("--bad");
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.font = `${clamp(size / 3, 9, 14)}px system-ui, sans-serif`;
    for (let row = 0; row < numRows; row++) {
      for (let column = 0; column < numColumns; column++) {
        const actual = order[row], predicted = classAt(column);
        if (!isShown(actual, predicted)) continue;
        const value = valueOf(actual, predicted);
        // The square root keeps a single mistake among many videos visible.
        const strength = 0.15 + 0.85 * Math.sqrt(value / (showsCounts ? fullest : 100));
        pen.fillStyle = `rgba(${actual === predicted ? good : bad}, ${strength})`;
        pen.fillRect(x(column), y(row), size, size);
        if (size < 28) continue;
        pen.fillStyle = colour(strength > 0.55 ? "--page" : "--ink");
        const text = showsCounts ? value : value < 10 ? value.toFixed(1) : value.toFixed(0);
        pen.fillText(text, x(column) + size / 2, y(row) + size / 2);
      }
    }
    if (!current) return;
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2;
    pen.strokeRect(x(current.column), y(current.row), size, size);
  }

  function drawNames(x, y, left, top, colour) {
    pen.textBaseline = "middle";
    const marked = hovered ?? current;
    const prepare = (position, isMarked) => {
      pen.font = `${isMarked ? "bold " : ""}${fontSize()}px system-ui, sans-serif`;
      pen.fillStyle = colour(isMarked ? "--ink" : "--quiet");
      return shortened(NAMES[classAt(position)], left - 10);
    };
    pen.save();
    pen.beginPath();
    pen.rect(0, top, left, canvas.clientHeight - top);
    pen.clip();
    pen.textAlign = "right";
    for (let row = 0; row < numRows; row++) pen.fillText(prepare(row, marked?.row === row), left - 5, y(row) + size / 2);
    pen.restore();
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, canvas.clientWidth - left, top);
    pen.clip();
    pen.textAlign = "left";
    for (let column = 0; column < numColumns; column++) {
      pen.save();
      pen.translate(x(column) + size / 2, top - 5);
      pen.rotate(-Math.PI / 2);
      pen.fillText(prepare(column, marked?.column === column), 0, 0);
      pen.restore();
    }
    pen.restore();
  }

  function shortened(name, width) {
    if (pen.measureText(name).width <= width) return name;
    let length = name.length;
    while (length > 1 && pen.measureText(`${name.slice(0, length)}…`).width > width) length -= 1;
    return `${name.slice(0, length)}…`;
  }

  // ---- Navigation ------------------------------------------------------------------------------------------------

  function cellUnder(event) {
    const box = canvas.getBoundingClientRect(), left = edge();
    const inX = event.clientX - box.left, inY = event.clientY - box.top;
    if (inX < left || inY < left) return null;
    const column = Math.floor((inX - left + area.scrollLeft) / size);
    const row = Math.floor((inY - left + area.scrollTop) / size);
    return row < numRows && column < numColumns ? { row, column } : null;
  }

  function zoomTo(newSize, event) {
    const left = edge(), box = canvas.getBoundingClientRect();
    // This point stays in place: the pointer, or the middle.
    const atX = event ? event.clientX - box.left - left : (box.width - left) / 2;
    const atY = event ? event.clientY - box.top - left : (box.height - left) / 2;
    const column = (area.scrollLeft + atX) / size, row = (area.scrollTop + atY) / size;
    size = clamp(newSize, SMALLEST, LARGEST);
    resize();
    area.scrollTo(column * size - atX, row * size - atY);
    draw();
  }

  function fit() {
    size = LARGEST; // so that the space for the names, which depends on the cell size, is counted
    size = clamp(Math.floor((area.clientWidth - edge() - 2) / numColumns), SMALLEST, 48);
    if (!hasNames()) size = clamp((area.clientWidth - edge() - 2) / numColumns, SMALLEST, 48);
    resize();
  }

  function moveTo(cell) {
    current = cell;
    hovered = null;
    const left = edge();
    const into = (scroll, position, visible) => {
      const start = position * size;
      return clamp(scroll, start + size - (visible - left) + 4, start);
    };
    area.scrollTo(
      into(area.scrollLeft, cell.column, area.clientWidth),
      into(area.scrollTop, cell.row, area.clientHeight),
    );
    const actual = order[cell.row], predicted = classAt(cell.column);
    status.textContent = `${describe(actual, predicted)}.${videosAt(cell).length ? ` Enter shows the ${unit}s.` : ""}`;
    draw();
  }

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in ARROWS) {
      const [down, right] = ARROWS[event.key];
      const isInside = (cell) => cell.row >= 0 && cell.row < numRows && cell.column >= 0 && cell.column < numColumns;
      const next = (cell) => ({ row: cell.row + down, column: cell.column + right });
      const isEmpty = (cell) => !isShown(order[cell.row], classAt(cell.column));
      let to = current ? next(current) : { row: 0, column: 0 };
      while (event.shiftKey && isInside(to) && isEmpty(to)) to = next(to);
      if (isInside(to)) moveTo(to);
    } else if ((event.key === "Enter" || event.key === " ") && current) openCell(order[current.row], classAt(current.column));
    else if (event.key === "+" || event.key === "=") zoomTo(size * 1.25);
    else if (event.key === "-") zoomTo(size / 1.25);
    else return;
    event.preventDefault();
  }

  function onHover(event) {
    hovered = cellUnder(event);
    if (hovered) showTip(event.clientX, event.clientY, describe(order[hovered.row], classAt(hovered.column)));
    else hideTip();
    draw();
  }

  function onLeave() {
    hovered = null;
    hideTip();
    draw();
  }

  function openCell(actual, predicted) {
    const inside = videosIn(actual, predicted);
    if (inside.length) report.openVideos(describe(actual, predicted), inside);
  }

  function onThreshold() {
    threshold = Number(byId("threshold").value);
    byId("threshold-value").textContent = showsCounts ? plural(threshold) : `${threshold} %`;
    draw();
  }

  function onSort() {
    const marked = current && [order[current.row], classAt(current.column)];
    order = orders[byId("sort").value];
    // The marked cell keeps its two classes. The column of missing videos is not in the order: it is the last.
    if (marked) current = { row: order.indexOf(marked[0]), column: (order.indexOf(marked[1]) + numColumns) % numColumns };
    draw();
  }

  // Turns the text of an element about a cell into a button that shows it.
  function makeButton(element, show) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "text-button";
    button.append(...element.childNodes);
    button.addEventListener("click", show);
    element.append(button);
  }

  // ---- Start -----------------------------------------------------------------------------------------------------

  for (const element of document.querySelectorAll("[data-true]")) {
    makeButton(element, () => openCell(Number(element.dataset.true), Number(element.dataset.predicted)));
  }

  area.addEventListener("keydown", onKey);
  area.addEventListener("scroll", draw);
  area.addEventListener("focus", () => current ?? moveTo({ row: 0, column: 0 }));
  canvas.addEventListener("pointermove", onHover);
  canvas.addEventListener("pointerleave", onLeave);
  canvas.addEventListener("click", (event) => {
    const cell = cellUnder(event);
    if (!cell) return;
    moveTo(cell);
    openCell(order[cell.row], classAt(cell.column));
  });
  area.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoomTo(size * (event.deltaY < 0 ? 1.15 : 1 / 1.15), event);
    },
    { passive: false },
  );
  byId("larger").addEventListener("click", () => zoomTo(size * 1.25));
  byId("smaller").addEventListener("click", () => zoomTo(size / 1.25));
  byId("fit").addEventListener("click", fit);
  byId("sort").addEventListener("change", onSort);
  byId("threshold").addEventListener("input", onThreshold);
  byId("show").addEventListener("change", () => {
    showsCounts = byId("show").value === "counts";
    onThreshold();
  });
  report.redraw(area, draw);

  fit();
  if (!hasNames()) zoomTo(9); // many classes on a small screen: show a part with names rather than all without
  area.scrollTo(0, 0);
  onThreshold();
})();
