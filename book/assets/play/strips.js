// Variance: samples of each estimator's gradient as strips, around the exact gradient.
"use strict";

vaePlay.kinds.strips = ({ batch, costs, start }) => {
  const { html, svg, slider, button, select, choice, announcer, panel, linear, axis, clamp, unpack, brief } = vaePlay;
  const letters = { loc: "μ", scale: "σ" };
  const estimators = costs[0].parameters.loc.estimators.map(({ name }) => name);
  let turn = 0; // which batch of the samples is shown

  const cost = select("Cost", costs.map(({ text }) => text), () => update());
  cost.value = start.cost;
  const grid = () => costs[cost.value].k;
  const k = slider("k", { min: 0, max: grid().length - 1, step: 1, value: start.k },
    (i) => brief(grid()[i]), () => update());
  const parameter = choice("Gradient by", letters, () => update());
  const exact = html("output", { "aria-live": "off" });
  const status = announcer();

  // All that is shown now: the exact gradient, and for each estimator its samples and their spread.
  const draws = new Map();
  const unpacked = (packed) => draws.get(packed) ?? draws.set(packed, unpack(packed)).get(packed);
  function now() {
    const column = k.value, { gradient, estimators: found } = costs[cost.value].parameters[parameter.value];
    const rows = found.map(({ draws: packed, variance, standard_error: error }) => {
      const all = unpacked(packed);
      const [count, columns] = packed.shape, first = (turn % Math.floor(count / batch)) * batch;
      const samples = Array.from({ length: batch }, (_, i) => all[(first + i) * columns + column]);
      return { variance: variance[column], error: error?.[column], deviation: Math.sqrt(variance[column]), samples };
    });
    const widest = Math.max(...rows.map((row) => row.deviation)) || Math.abs(gradient[column]) || 1;
    return { gradient: gradient[column], rows, span: [-3.2, 3.2].map((times) => gradient[column] + times * widest) };
  }

  const strips = estimators.map((name, i) => {
    const output = html("output", { "aria-live": "off" });
    const view = panel({ class: "vae-play-samples", role: "img", "aria-label":
      `Samples of the gradient by the ${name.replaceAll("_", " ")} estimator, around the exact gradient.` },
    (width, height) => {
      const { gradient, rows, span } = now(), { samples, deviation, error } = rows[i];
      const x = linear(span, [12, width - 12]), base = height - 22, bar = base - 8;
      const ends = [gradient - deviation, gradient + deviation].map(x);
      return [
        axis(x, base, span, "", width < 400 ? 4 : 8),
        svg("line", { class: "exact", x1: x(gradient), x2: x(gradient), y1: 0, y2: base }),
        samples.map((value, j) => {
          const at = clamp(x(value), 4, width - 4), y = 6 + ((j * 0.618) % 1) * (base - 26);
          const beyond = value < span[0] || value > span[1]; // drawn at the edge, as an open diamond
          return beyond
            ? svg("path", { class: `point beyond vae-play-${i % 6}`, d: `M${at} ${y - 4}l4 4l-4 4l-4 -4z` })
            : svg("circle", { class: `point vae-play-${i % 6}`, cx: at, cy: y, r: 2.6 });
        }),
        svg("path", { class: error === undefined ? "deviation" : "deviation measured",
          d: `M${ends[0]} ${bar}H${ends[1]}M${ends[0]} ${bar - 5}v10M${ends[1]} ${bar - 5}v10` }),
      ];
    });
    return { name, output, view, element: html("div", { class: "vae-play-row" },
      html("p", {}, html("strong", {}, name.replaceAll("_", " ")), " variance ", output), view.element) };
  });

  const number = ({ variance, error }) =>
    brief(variance) + (error === undefined ? "" : ` ± ${brief(1.96 * error)}, measured`);
  function update() {
    k.refresh(); // what a step means depends on the cost
    const { gradient, rows } = now(), lowest = Math.min(...rows.map((row) => row.variance));
    exact.textContent = brief(gradient);
    strips.forEach((strip, i) => {
      strip.output.textContent = number(rows[i]) + (rows[i].variance === lowest ? " (the lowest)" : "");
      strip.view.repaint();
    });
    status.say(`Exact gradient ${brief(gradient)}. Variances: ` +
      strips.map(({ name }, i) => `${name.replaceAll("_", " ")} ${number(rows[i])}`).join("; "));
  }
  update();

  return [
    html("p", {}, `Choose a cost and move k. Each point is the gradient from a single sample, ${batch} at a time. The line is the exact gradient, the bar below the points the standard deviation to both sides of it (dashed where it was measured). Points beyond the edge are drawn on it, as diamonds.`),
    html("div", { class: "vae-play-buttons" }, cost.element, button("Draw again", () => { turn += 1; update(); })),
    parameter.element, k.element,
    html("p", { class: "vae-play-exact" }, "exact gradient ", exact),
    strips.map((strip) => strip.element),
    status.element,
  ];
};
