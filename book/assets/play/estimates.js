// Estimates run, the mean settles: single-sample gradients of E[(w z)²], z ~ N(μ, σ²), by two estimators, their
// running means with a band of two standard errors, and the exact gradient.
"use strict";

// The gradients by μ and by σ of each estimator from one ε.
vaePlay.singleGradients = (w, mu, sigma, eps) => {
  const z = mu + sigma * eps, slope = 2 * w * w * z, cost = (w * z) ** 2;
  return {
    pathwise: { mu: slope, sigma: slope * eps },
    score: { mu: (cost * eps) / sigma, sigma: (cost * (eps * eps - 1)) / sigma },
  };
};

vaePlay.kinds.estimates = ({ mu, sigma: sigma0, weight }) => {
  const { words, html, svg, slider, button, choice, readout, announcer, predict, runner, panel, linear, upright, path, clamp, fixed,
    brief, normal } = vaePlay;
  const most = 10000, estimators = { pathwise: "pathwise", score: "score function" }, parameters = { mu: "μ", sigma: "σ" };
  let runs, count; // runs: estimator -> parameter -> the moments so far, and what they were at some counts

  // Standard deviations of single estimates: of z's moments.
  const deviation = (name, parameter, s) => {
    const m2 = mu ** 2, s2 = s ** 2;
    return weight ** 2 * Math.sqrt({
      pathwise: { mu: 4 * s2, sigma: 4 * (m2 + 2 * s2) },
      score: { mu: m2 ** 2 / s2 + 14 * m2 + 15 * s2, sigma: (2 * m2 ** 2) / s2 + 60 * m2 + 74 * s2 },
    }[name][parameter]);
  };
  const times = (deviation("score", "mu", sigma0) / deviation("pathwise", "mu", sigma0)) ** 2;
  const asked = predict("Both estimators get the same samples. Where will the running mean of the score function's estimates settle?",
    ["where the pathwise mean does, but later", "where the pathwise mean does, just as soon", "somewhere else"], 0,
    `The exact gradient is the mean of both. But single estimates of the score function scatter ${times > 1 ? "more" : "less"}: with respect to μ, at σ = ${fixed(sigma0, 2)}, it needs ${brief(+times.toPrecision(2))} times as many samples for a band as narrow.`);
  const shown = choice("Show", { both: "both", ...estimators }, () => update());
  const by = choice("Gradient with respect to", parameters, () => update());
  const sigma = slider("σ", { min: 0.2, max: Math.max(2, 2 * sigma0).toFixed(1), step: 0.05, value: sigma0 }, (x) => fixed(x, 2), () => reset());
  const numbers = { exact: readout("exact"), ...Object.fromEntries(Object.entries(estimators).map(([name, label]) => [name, readout(label)])) };
  const samples = readout("samples");
  const status = announcer();

  const exact = () => 2 * weight ** 2 * (by.value === "mu" ? mu : sigma.value);
  const drawn = () => Object.keys(estimators).filter((name) => shown.value === "both" || shown.value === name);

  function add(single) { // to the moments, by Welford's recurrence
    count += 1;
    const kept = count <= 20 || count % Math.ceil(count / 60) === 0;
    for (const name in estimators) for (const parameter in parameters) {
      const run = runs[name][parameter], value = single[name][parameter], off = value - run.mean;
      run.mean += off / count;
      run.squares += off * (value - run.mean);
      if (kept) run.past.push({ count, value, mean: run.mean, error: error(run, count) });
    }
  }
  const error = (run, n) => (n > 1 ? Math.sqrt(run.squares / (n - 1) / n) : Infinity);
  function advance(more) {
    for (let i = 0; i < more && count < most; i++) add(vaePlay.singleGradients(weight, mu, sigma.value, normal()));
    if (count >= 200) asked.seen();
    update();
    return count < most;
  }
  const running = runner(advance, { name: "One sample", pace: () => Math.ceil((count + 1) / 20), leap: most });
  function reset() {
    running.stop();
    count = 0;
    const empty = () => ({ mean: 0, squares: 0, past: [] });
    runs = Object.fromEntries(Object.keys(estimators).map((name) => [name, { mu: empty(), sigma: empty() }]));
    update();
  }

  const chart = panel({ class: "vae-play-settle", role: "img", "aria-label":
    "The running mean of each estimator against the number of samples, with a band of two standard errors to both sides, around a line at the exact gradient." },
  (width, height) => {
    const floor = height - 34, truth = exact(), reach = Math.max(...drawn().map((name) => deviation(name, by.value, sigma.value)));
    const ends = [truth - reach, truth + reach], y = linear(ends, [floor, 18]), log = linear([0, Math.log(most)], [44, width - 12]);
    const x = (n) => log(Math.log(n)), inside = (value) => clamp(y(value), 18, floor);
    return [
      upright(y, 44, ends, ""),
      svg("line", { class: "axis", x1: 44, x2: width - 12, y1: floor, y2: floor }),
      [1, 10, 100, 1000, 10000].map((n) => [
        svg("line", { class: "axis", x1: x(n), x2: x(n), y1: floor, y2: floor + 4 }),
        svg("text", { x: x(n), y: floor + 16, "text-anchor": n === most ? "end" : "middle" }, n.toLocaleString("en"))]),
      svg("text", { x: (44 + width) / 2, y: height - 3, "text-anchor": "middle" }, "samples (logarithmic)"),
      drawn().map((name) => {
        const { past } = runs[name][by.value], i = Object.keys(estimators).indexOf(name), known = past.filter((one) => one.count > 1);
        const edge = (side) => known.map((one) => [x(one.count), inside(one.mean + side * 2 * one.error)]);
        return [
          known.length > 1 ? svg("path", { class: `band vae-play-${i}`, d: `${path([...edge(1), ...edge(-1).reverse()])}Z` }) : [],
          past.filter((one) => Math.abs(one.value - truth) < reach).map((one) => svg("circle", { class: `point faint vae-play-${i}`, cx: x(one.count), cy: y(one.value), r: 2 })),
          past.length ? svg("path", { class: `line ${i ? "second" : "first"}`, d: path(past.map((one) => [x(one.count), inside(one.mean)])) }) : [],
        ];
      }),
      svg("line", { class: "exact", x1: 44, x2: width - 12, y1: y(truth), y2: y(truth) }),
      svg("text", { class: "halo", x: width - 14, y: y(truth) - 5, "text-anchor": "end" }, "exact gradient"),
      drawn().map((name, i) => [
        svg("line", { class: `line ${name === "score" ? "second" : "first"}`, x1: 60 + 130 * i, x2: 86 + 130 * i, y1: 8, y2: 8 }),
        svg("text", { class: "halo", x: 92 + 130 * i, y: 12 }, estimators[name]),
      ]),
      count ? [] : svg("text", { x: (44 + width) / 2, y: y(truth) + 24, "text-anchor": "middle" }, "no samples yet: press Run"),
    ];
  });

  function update() {
    samples.text = count.toLocaleString("en");
    numbers.exact.text = fixed(exact(), 3);
    const texts = Object.keys(estimators).map((name) => {
      const run = runs[name][by.value];
      numbers[name].text = count > 1 ? `${fixed(run.mean, 3)} ± ${brief(2 * error(run, count))}` : count ? fixed(run.mean, 3) : "–";
      return count ? `${estimators[name]} ${fixed(run.mean, 2)}` : "";
    });
    chart.repaint();
    status.say(count ? `After ${count} samples: ${texts.join(", ")}; exact ${fixed(exact(), 2)}` : "No samples yet");
  }
  reset();

  return [
    asked.element,
    html("p", {}, "Each sample gives one estimate of the gradient (faint points, where the axis reaches them); the lines are the means of all estimates so far, the bands two standard errors to both sides. Changing σ starts again."),
    shown.element, by.element, sigma.element,
    html("div", { class: "vae-play-buttons" }, running.buttons, button(words.reset, reset)),
    chart.element,
    html("dl", {}, samples.element, Object.values(numbers).map((number) => number.element)),
    status.element,
  ];
};
