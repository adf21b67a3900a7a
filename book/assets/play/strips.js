// Variance: a cost and the density of z; and samples of each estimator's gradient as strips, around the exact one.
"use strict";

vaePlay.kinds.strips = ({ batch, q, costs, start }) => {
  const { words, html, svg, slider, button, select, choice, announcer, predict, panel, linear, axis, upright, path, clamp, unpack,
    brief } = vaePlay;
  const letters = { loc: "μ", scale: "σ" };
  const estimators = costs[0].parameters.loc.estimators.map(({ name }) => name);
  const spoken = estimators.map((name) => name.replaceAll("_", " ").replace("measure valued", "measure-valued"));
  let turn = 0; // which batch of the samples is shown

  const cost = select("Cost", costs.map(({ text }) => text), () => update());
  cost.value = start.cost;
  const grid = () => costs[cost.value].k;
  const k = slider("k", { min: 0, max: grid().length - 1, step: 1, value: start.k },
    (i) => brief(grid()[i]), () => update());
  const parameter = choice("Gradient with respect to", letters, () => update());
  const fit = html("input", { type: "checkbox", onchange: () => update() });
  const exact = html("output", { "aria-live": "off" });
  const status = announcer();

  // Whose variance grows from where the figure starts to the largest k: the answer to the question.
  const first = costs[start.cost];
  const growth = first.parameters.loc.estimators.slice(0, 2).map(({ variance }) => variance.at(-1) / variance[start.k]);
  const asked = predict(`Raise k, and the cost ${first.text} changes faster with z. Whose gradients with respect to μ will scatter more?`,
    [...spoken.slice(0, 2).map((name) => `${name} only`), "both"],
    growth.every((factor) => factor > 1.5) ? 2 : growth.indexOf(Math.max(...growth)),
    `Pathwise uses the cost's slopes, the score function its values. The largest k multiplies their variances by ${growth.map(brief).join(" and ")}.`);

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
    return { gradient: gradient[column], rows, span: span(gradient, found, fit.checked ? column : undefined) };
  }
  // What the axis shows: 49 of 50 samples of each estimator, at one k, or else at all of them, so that a wider scatter
  // looks wider.
  const spans = new Map();
  function span(gradient, found, only) {
    const key = [cost.value, parameter.value, only].join();
    if (!spans.has(key)) {
      const columns = only === undefined ? gradient.map((_, i) => i) : [only];
      const ends = columns.flatMap((column) => found.flatMap(({ draws: packed }) => {
        const all = unpacked(packed), [count, width] = packed.shape;
        const sorted = Array.from({ length: count }, (_, i) => all[i * width + column]).sort((a, b) => a - b);
        const beyond = Math.floor(count / 100);
        return [gradient[column], sorted[beyond], sorted[count - 1 - beyond]];
      }));
      const [low, high] = [Math.min(...ends), Math.max(...ends)], edge = 0.05 * (high - low) || 1;
      spans.set(key, [low - edge, high + edge]);
    }
    return spans.get(key);
  }

  // The cost over z and, on a scale of its own, the density of z.
  const picture = panel({ class: "vae-play-cost", role: "img", "aria-label":
    "The cost as a curve over z, and the density of z." },
  (width, height) => {
    const ends = [q.z[0], q.z.at(-1)], { curve } = costs[cost.value], values = unpacked(curve), columns = curve.shape[1];
    const lowest = Math.min(...values), highest = Math.max(...values), edge = 0.02 * (highest - lowest);
    const extent = [lowest - edge, highest + edge];  // so that -1 is on the axis of a cosine
    const x = linear(ends, [40, width - 12]), floor = height - 24, y = linear(extent, [floor, 18]);
    const low = linear([0, 1.15 * Math.max(...q.density)], [floor, 18]);
    const density = path(q.z.map((z, i) => [x(z), low(q.density[i])]));
    return [
      svg("path", { class: "density", d: density }),
      svg("path", { class: "line second solid", d: path(q.z.map((z, i) => [x(z), y(values[i * columns + k.value])])) }),
      upright(y, 40, extent, "", 3), axis(x, floor, ends, "", width < 400 ? 4 : 8),
      svg("text", { class: "halo", x: 44, y: 12 }, "cost (curve) and density (filled) over z"),
    ];
  });

  const strips = estimators.map((name, i) => {
    const output = html("output", { "aria-live": "off" });
    const view = panel({ class: "vae-play-samples", role: "img", "aria-label":
      `Samples of the gradient by the ${spoken[i]} estimator, around the exact gradient.` },
    (width, height) => {
      const { gradient, rows, span: [low, high] } = now(), { samples, deviation, error } = rows[i];
      const x = linear([low, high], [12, width - 12]), base = height - 22, bar = base - 8;
      const ends = [gradient - deviation, gradient + deviation].map(x);
      return [
        axis(x, base, [low, high], "", width < 400 ? 4 : 8),
        svg("line", { class: "exact", x1: x(gradient), x2: x(gradient), y1: 0, y2: base }),
        samples.map((value, j) => {
          const at = clamp(x(value), 4, width - 4), y = 6 + ((j * 0.618) % 1) * (base - 26);
          const beyond = value < low || value > high; // drawn at the edge, as an open diamond
          return beyond
            ? svg("path", { class: `point beyond vae-play-${i % 6}`, d: `M${at} ${y - 4}l4 4l-4 4l-4 -4z` })
            : svg("circle", { class: `point vae-play-${i % 6}`, cx: at, cy: y, r: 2.6 });
        }),
        svg("path", { class: error === undefined ? "deviation" : "deviation measured",
          d: `M${ends[0]} ${bar}H${ends[1]}M${ends[0]} ${bar - 5}v10M${ends[1]} ${bar - 5}v10` }),
      ];
    });
    return { output, view, element: html("div", { class: "vae-play-row" },
      html("p", {}, html("strong", {}, spoken[i]), " variance ", output), view.element) };
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
      spoken.map((name, i) => `${name} ${number(rows[i])}`).join("; "));
    picture.repaint();
    if (cost.value === start.cost && k.value >= (start.k + grid().length - 1) / 2) asked.seen();
  }
  update();

  return [
    asked.element,
    html("p", {}, `Choose a cost and move k. Each point is the gradient from a single sample, ${batch} at a time. The line is the exact gradient, the bar below the points the standard deviation to both sides of it (dashed where it was measured). The axis is the same for all k, unless you fit it to one. Points beyond the edge are drawn on it, as diamonds.`),
    html("div", { class: "vae-play-buttons" }, cost.element, button(words.again, () => { turn += 1; update(); }),
      html("label", {}, fit, "fit the axis to this k")),
    parameter.element, k.element, picture.element,
    html("p", { class: "vae-play-exact" }, "exact gradient ", exact),
    strips.map((strip) => strip.element),
    status.element,
  ];
};
