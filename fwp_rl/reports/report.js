"use strict";
// Draws the charts of a report from the data beside them. Labels are only ever set as text.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const KEYS = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 };

  function add(parent, tag, attributes = {}, text = null) {
    const svg = parent.namespaceURI === SVG || tag === "svg";
    const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    parent.append(made);
    return made;
  }

  // 999, 12.3k, 4.56M
  function shown(x, digits = 4) {
    const units = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
    const [size, letter] = units.find(([size]) => Math.abs(x) >= 0.9995 * size) ?? [1, ""];
    return (Number((x / size).toPrecision(digits)) + letter).replace("-", "−");
  }

  // as many digits as tell neighbouring ticks apart
  function labels(levels) {
    const largest = Math.max(...levels.map(Math.abs));
    const step = levels.length > 1 ? levels[1] - levels[0] : largest;
    const digits = step > 0 ? Math.ceil(Math.log10(largest / step) + 1.01) : 1;
    return levels.map((level) => shown(level, Math.min(12, Math.max(3, digits))));
  }

  function ticks(low, high, most, whole) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    if (whole) step = Math.max(1, step);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
    return found;
  }

  const place = (series, i) =>
    series.value.length === 1 ? series.from
      : series.from + ((series.to - series.from) * i) / (series.value.length - 1);

  // index of the point of a series that is nearest to x; null beyond its ends
  function nearest(series, x, slack) {
    if (x < series.from - slack || x > series.to + slack) return null;
    const share = series.to > series.from ? (x - series.from) / (series.to - series.from) : 0;
    return Math.round(Math.min(1, Math.max(0, share)) * (series.value.length - 1));
  }

  function swatch(parent, style) {
    const svg = add(parent, "svg", { width: 28, height: 10, viewBox: "0 0 28 10", "aria-hidden": "true" });
    add(svg, "line", { x1: 1, x2: 27, y1: 5, y2: 5, class: "line", ...look(style) });
  }

  const look = (style) => ({ stroke: style.color ?? "currentColor", "stroke-dasharray": style.dash });

  function panel(parent, data, chart, hidden, redraw) {
    const box = add(parent, "div", { class: "panel" });
    if (data.title) add(box, "h3", {}, data.title);
    add(box, "p", { class: "soft axis" }, data.y);
    const svg = add(box, "svg", { tabindex: 0, role: "slider", class: "plot" });
    svg.setAttribute("aria-label", `${data.title} ${data.y}: values along ${data.x}`);
    const where = add(box, "p", { class: "soft where" });
    const list = add(box, "div", { class: "series" });
    const rows = data.series.map((series) => {
      const style = chart.styles[series.label];
      const button = add(list, "button", { type: "button" });
      swatch(button, style);
      add(button, "span", { class: "name" }, series.label);
      const value = add(button, "span", { class: "value" });
      button.addEventListener("click", () => {
        if (!hidden.delete(series.label)) hidden.add(series.label);
        redraw();
      });
      return { series, style, button, value };
    });
    const ends = { low: Math.min(...data.series.map((s) => s.from)), high: Math.max(...data.series.map((s) => s.to)) };
    if (chart.whole) ends.low = Math.min(0, ends.low);
    if (ends.high <= ends.low) ends.high = ends.low + 1;
    let cursor = chart.rest; // null: at the end of each series
    let scale = null;

    function read() {
      const at = cursor ?? ends.high;
      where.textContent = cursor === null ? `at the end (${data.x})` : `at ${shown(at)} (${data.x})`;
      scale.marks.replaceChildren();
      if (cursor !== null) {
        add(scale.marks, "line", { x1: scale.x(at), x2: scale.x(at), y1: scale.top, y2: scale.bottom, class: "cursor" });
      }
      const said = [];
      for (const { series, style, button, value } of rows) {
        const off = hidden.has(series.label);
        button.setAttribute("aria-pressed", String(!off));
        const slack = (ends.high - ends.low) / 100;
        const i = cursor === null ? series.value.length - 1 : nearest(series, at, slack);
        value.replaceChildren();
        if (i === null) continue;
        add(value, "b", {}, shown(series.value[i]));
        const range = series.low && (series.low[i] !== series.high[i]);
        const details = range ? [`${shown(series.low[i])} to ${shown(series.high[i])}`] : [];
        if (series.note) details.push(series.note);
        if (details.length) add(value, "span", { class: "soft" }, ` ${details.join(", ")}`);
        if (off) continue;
        said.push(`${series.label} ${shown(series.value[i])}`);
        if (cursor !== null) {
          const dot = { cx: scale.x(place(series, i)), cy: scale.y(series.value[i]), r: 4, class: "dot" };
          add(scale.marks, "circle", { ...dot, fill: style.color ?? "currentColor" });
        }
      }
      svg.setAttribute("aria-valuemin", ends.low);
      svg.setAttribute("aria-valuemax", ends.high);
      svg.setAttribute("aria-valuenow", at);
      svg.setAttribute("aria-valuetext", `${where.textContent}: ${said.join(", ") || "nothing"}`);
    }

    function draw() {
      const width = Math.max(200, box.clientWidth);
      const height = Math.round(Math.min(340, Math.max(210, width * 0.5)));
      const seen = rows.filter(({ series }) => !hidden.has(series.label));
      const all = (seen.length ? seen : rows).flatMap(({ series }) => [
        ...series.value, ...(series.low ?? []), ...(series.high ?? [])]);
      let [low, high] = [Math.min(...all), Math.max(...all)];
      const room = high > low ? 0.05 * (high - low) : Math.max(0.5, Math.abs(low) * 0.05);
      [low, high] = [low - room, high + room];
      const levels = ticks(low, high, 6, false);
      const names = labels(levels);
      const left = 14 + 7 * Math.max(...names.map((name) => name.length));
      const right = 14, top = 8, bottom = height - 40;
      const x = (value) => left + ((width - left - right) * (value - ends.low)) / (ends.high - ends.low);
      const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("width", width);
      svg.setAttribute("height", height);
      svg.replaceChildren();
      levels.forEach((level, i) => {
        add(svg, "line", { x1: left, x2: width - right, y1: y(level), y2: y(level), class: "grid" });
        add(svg, "text", { x: left - 6, y: y(level) + 4, "text-anchor": "end" }, names[i]);
      });
      const steps = ticks(ends.low, ends.high, width < 420 ? 4 : 6, chart.whole);
      labels(steps).forEach((name, i) => {
        add(svg, "line", { x1: x(steps[i]), x2: x(steps[i]), y1: top, y2: bottom, class: "grid" });
        add(svg, "text", { x: x(steps[i]), y: bottom + 16, "text-anchor": "middle" }, name);
      });
      add(svg, "text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, data.x);
      for (const { series, style } of seen) curve(svg, series, style, x, y);
      scale = { x, y, top, bottom, left, right: width - right, marks: add(svg, "g") };
      read();
    }

    function to(value) {
      cursor = value === null ? null : Math.min(ends.high, Math.max(ends.low, value));
      read();
    }
    function point(event) {
      const inside = svg.getBoundingClientRect();
      const share = (event.clientX - inside.left - scale.left) / (scale.right - scale.left);
      to(ends.low + share * (ends.high - ends.low));
    }
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") to(chart.rest); });
    svg.addEventListener("keydown", (event) => {
      const step = (ends.high - ends.low) / 50;
      if (event.key in KEYS) to((cursor ?? ends.high) + KEYS[event.key] * step);
      else if (event.key === "Home") to(ends.low);
      else if (event.key === "End") to(ends.high);
      else if (event.key === "Escape") to(chart.rest);
      else return;
      event.preventDefault();
    });
    return draw;
  }

  function curve(svg, series, style, x, y) {
    const color = style.color ?? "currentColor";
    const at = series.value.map((_, i) => x(place(series, i)).toFixed(1));
    const edge = (values) => values.map((value, i) => `${at[i]},${y(value).toFixed(1)}`);
    if (series.value.length === 1) {
      if (series.low) {
        add(svg, "line", { x1: at[0], x2: at[0], y1: y(series.low[0]), y2: y(series.high[0]), class: "line", stroke: color });
      }
      add(svg, "circle", { cx: at[0], cy: y(series.value[0]), r: 5, fill: color });
      return;
    }
    if (series.low && series.low.some((value, i) => value !== series.high[i])) {
      const around = [...edge(series.high), ...edge(series.low).reverse()];
      add(svg, "polygon", { points: around.join(" "), fill: color, class: "band" });
    }
    add(svg, "polyline", { points: edge(series.value).join(" "), class: "line", ...look(style) });
  }

  for (const holder of document.querySelectorAll("[data-chart]")) {
    const chart = JSON.parse(document.getElementById(holder.dataset.chart).textContent);
    const hidden = new Set();
    const draws = [];
    const redraw = () => draws.forEach((draw) => draw());
    for (const data of chart.panels) draws.push(panel(holder, data, chart, hidden, redraw));
    let width = 0;
    new ResizeObserver(() => {
      if (holder.clientWidth === width) return;
      width = holder.clientWidth;
      redraw();
    }).observe(holder);
    redraw();
  }
})();
