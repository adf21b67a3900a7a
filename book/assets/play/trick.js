// The trick: one sample of z, its path as μ and σ change, its derivatives, and what gradient descent makes of them
// for the cost (z − k)². With four rules for z: sample(), which keeps no path, z = μ + σ·ε, z = μ, and z = μ + σ.
"use strict";

vaePlay.kinds.trick = ({ mu: mu0, sigma: sigma0, eps: eps0, target, rate }) => {
  const { words, html, svg, slider, button, choice, readout, announcer, predict, runner, panel, linear, axis, upright, curve,
    path, clamp, fixed, bell, normal } = vaePlay;
  const rules = { trick: "z = μ + σ · ε", sample: "sample()", none: "no ε: z = μ", ones: "z = μ + σ" };
  const digits = Math.max(0, -Math.floor(Math.log10(sigma0 / 30))), most = 300, kept = 40;
  const step = 10 ** -digits;
  const grid = (value) => Math.round(value / step) * step;
  const span = [mu0 - 6 * sigma0, mu0 + 6 * sigma0]; // of the axis of z
  const mus = [grid(mu0 - 3 * sigma0), grid(mu0 + 3 * sigma0)];
  const sigmas = [Math.max(step, grid(sigma0 / 10)), grid(2 * sigma0)];
  const cost = (z) => (z - target) ** 2;
  const expected = ({ mu: m, sigma: s }) => (m - target) ** 2 + s * s;

  // The state: μ and σ, more exact than the sliders show them; where they began; and what there was since.
  let at, begin, past, hidden; // hidden: the noise inside sample(), of which no reader is told
  let drawn = [], cut = [], scattered = []; // ε of earlier draws, z of earlier samples, and draws beside the paths
  let runs = {}; // rule -> the expected costs of its last run
  const start = (m, s) => { at = { mu: m, sigma: s }; begin = at; past = [at]; };

  const asked = predict(`Gradient descent moves μ and σ down the cost (z − ${fixed(target, digits)})², by what backpropagation finds for one sample at a time. With which rule will σ shrink, as the expected cost wants it?`,
    ["sample()", "z = μ + σ · ε", "z = μ + σ"], 1,
    "The gradient for σ, slope times ε, shrinks σ on average. sample() leaves no gradient, and nothing moves. μ + σ brings a point to the minimum, not a distribution, and σ goes where that takes it.");
  const law = choice("Compute", rules, () => change());
  const range = ([min, max], value) => ({ min: min.toFixed(digits), max: max.toFixed(digits), step, value });
  const mu = slider("μ", range(mus, mu0), (x) => fixed(x, digits), () => moved());
  const sigma = slider("σ", range(sigmas, sigma0), (x) => fixed(x, digits), () => moved());
  const eps = slider("ε", { min: -4, max: 4, step: 0.01, value: eps0 }, (x) => fixed(x, 2), () => update());
  const frozen = html("input", { type: "checkbox", checked: true, onchange: () => { scattered = []; update(); } });
  const names = { z: "z", byMu: "∂z/∂μ", bySigma: "∂z/∂σ", cost: "cost", slope: "its slope", expected: "expected cost" };
  const numbers = Object.fromEntries(Object.entries(names).map(([name, label]) => [name, readout(label)]));
  const status = announcer();

  const chance = () => law.value === "trick" || law.value === "sample";
  const jumps = () => law.value === "sample" || (law.value === "trick" && !frozen.checked);
  function now() {
    const noise = { trick: eps.value, sample: hidden, none: 0, ones: 1 }[law.value], z = at.mu + at.sigma * noise;
    const traced = law.value !== "sample";
    return { noise, z, slope: 2 * (z - target), byMu: traced ? 1 : null, bySigma: traced ? noise : null };
  }
  function redraw() {
    const fresh = normal();
    if (law.value === "sample") {
      hidden = fresh;
      cut = [...cut.slice(1 - kept), now().z];
    } else if (law.value === "trick") {
      eps.value = fresh;
      drawn = [...drawn.slice(1 - kept), eps.value];
    }
  }

  function moved() { // by hand
    learning.stop();
    runs = {};
    start(mu.value, sigma.value);
    if (jumps()) {
      redraw();
      scattered = [...scattered.slice(1 - kept), { ...at, z: now().z }];
    }
    update();
  }
  function change() { // another rule, from the same place
    learning.stop();
    start(begin.mu, begin.sigma);
    hidden = normal();
    [cut, scattered] = [[], []];
    update();
  }
  function learn(count) {
    for (let i = 0; i < count && past.length <= most; i++) {
      redraw();
      const { slope, byMu, bySigma } = now();
      if (byMu !== null) at = { mu: at.mu - rate * slope * byMu, sigma: Math.max(sigmas[0], at.sigma - rate * slope * bySigma) };
      past.push(at);
    }
    scattered = [];
    runs[law.value] = past.map(expected);
    if (past.length > 30) asked.seen();
    update();
    return past.length <= most;
  }
  const learning = runner(learn);
  function reset() {
    learning.stop();
    [drawn, cut, scattered] = [[], [], []];
    runs = {};
    eps.value = eps0;
    start(mu0, sigma0);
    update();
  }

  // Drawings

  // How far z moves when a parameter grows by half of σ's first value; a dot where z does not move.
  function arrow(x, y, z, derivative, name) {
    const end = x(z + 0.5 * sigma0 * derivative), head = Math.sign(derivative) * Math.min(7, Math.abs(end - x(z)));
    return [
      svg("line", { class: "arrow", x1: x(z), x2: end - head, y1: y, y2: y }),
      head ? svg("path", { class: "arrow-head", d: `M${end} ${y}l${-head} -4v8z` })
        : svg("circle", { class: "arrow-head", cx: x(z), cy: y, r: 3 }),
      svg("text", { class: "halo", x: 2, y: y - 8 }, `${name} = ${fixed(derivative, 2)}`),
    ];
  }
  const overview = panel({ class: "vae-play-overview", role: "img", "aria-label":
    "The cost over z with its tangent at the sample; below, the density of z with the sample on its axis, arrows for its two derivatives, and the axis of ε." },
  (width, height) => {
    const { z, slope, byMu, bySigma } = now(), used = law.value === "trick", edge = [14, width - 14];
    const x = linear(span, edge), e = linear([-4, 4], edge), floor = 100, ground = 194, base = height - 22;
    const price = linear([0, 25 * sigma0 ** 2], [floor, 8]);
    const highest = Math.max(0.6 / sigma0, 0.42 / at.sigma); // so that a narrow density stays below the cost
    const y = linear([0, highest], [ground, floor + 8]), low = linear([0, 0.4], [base, base - 34]);
    const place = clamp(x(z), 8, width - 8), tangent = [-1.2, 1.2].map((times) => z + times * sigma0);
    const marks = law.value === "sample" ? cut : drawn.map((value) => at.mu + at.sigma * value);
    return [
      svg("line", { class: "axis", x1: edge[0], x2: edge[1], y1: floor, y2: floor }),
      svg("path", { class: "line cost", d: curve(x, price, span, cost) }),
      byMu === null ? [] : svg("path", { class: "path tangent",
        d: path(tangent.map((value) => [x(value), price(cost(z) + slope * (value - z))])) }),
      svg("line", { class: "mark", x1: place, x2: place, y1: price(cost(z)), y2: ground, "stroke-dasharray": "2 3" }),
      svg("circle", { class: "sample", cx: place, cy: Math.max(7, price(cost(z))), r: 5 }),
      svg("text", { class: "halo", x: 2, y: floor - 6 }, `cost (z − ${fixed(target, digits)})²`),
      svg("path", { class: "density", d: curve(x, y, span, bell(at.mu, at.sigma)) }),
      chance() ? marks.map((value) => svg("line", { class: "mark drawn", x1: x(value), x2: x(value), y1: ground - 8, y2: ground })) : [],
      axis(x, ground, span, "z"),
      used ? [
        svg("path", { class: "density faint", d: curve(e, low, [-4, 4], bell(0, 1)) }),
        drawn.map((value) => svg("line", { class: "mark drawn", x1: e(value), x2: e(value), y1: base - 8, y2: base })),
        axis(e, base, [-4, 4], "ε"),
        svg("line", { class: "link", x1: e(eps.value), y1: base, x2: place, y2: ground }),
        svg("circle", { class: "random", cx: e(eps.value), cy: base, r: 6 }),
      ] : [],
      byMu === null ? svg("text", { x: 2, y: ground + 46 }, "no path from μ and σ to z, and no derivative")
        : [arrow(x, ground + 48, z, byMu, "∂z/∂μ"), arrow(x, ground + 82, z, bySigma, "∂z/∂σ")],
      svg("circle", { class: "sample", cx: place, cy: ground, r: 7 }),
    ];
  });

  // z against one parameter: the path, where there is one, and the sample. One unit is as long in both directions,
  // and in both drawings, so that slopes can be compared by eye.
  const shows = ([low, high], value) => value >= low - step && value <= high + step;
  const route = (name, key, ends, z) => {
    const shown = panel({ class: "vae-play-route", role: "img", "aria-label":
      `z against ${name}: a straight path with the sample on it, or single points where there is no path.` },
    (width, height) => {
      const floor = height - 34, unit = (floor - 16) / (mus[1] - mus[0]);
      const x = linear(ends, [32, 32 + unit * (ends[1] - ends[0])]), y = linear(mus, [floor, 16]);
      const rise = (z(ends[1]) - z(ends[0])) / (ends[1] - ends[0]); // the path is shown as far as the axis of z goes
      const reached = rise ? mus.map((value) => ends[0] + (value - z(ends[0])) / rise).sort((a, b) => a - b) : ends;
      const seen = [Math.max(ends[0], reached[0]), Math.min(ends[1], reached[1])];
      return [
        axis(x, floor, ends, "", name === "σ" ? 2 : 4), upright(y, 32, mus, "z"),
        svg("text", { x: (x(ends[0]) + x(ends[1])) / 2, y: height - 3, "text-anchor": "middle" }, name),
        jumps() ? scattered.map((one) => svg("circle", { class: "draw", cx: x(one[key]), cy: y(one.z), r: 3 }))
          : seen[0] < seen[1] ? svg("path", { class: "path", d: path(seen.map((value) => [x(value), y(z(value))])) }) : [],
        shows(ends, at[key]) && shows(mus, now().z) ? svg("circle", { class: "sample", cx: x(at[key]), cy: y(now().z), r: 6 }) : [],
      ];
    });
    // As wide as its unit asks for, at the height of the style sheet.
    const share = (ends[1] - ends[0]) / (mus[1] - mus[0]);
    shown.element.style.width = `calc(${(160 * share).toFixed(0)}px + 46px)`;
    return shown;
  };
  const routes = [
    route("μ", "mu", mus, (value) => value + at.sigma * now().noise),
    route("σ", "sigma", sigmas, (value) => at.mu + value * now().noise),
  ];

  const history = panel({ class: "vae-play-history", role: "img", "aria-label":
    "μ and σ after each step, and below them the expected cost, for the rules that have been run." },
  (width, height) => {
    const ends = [0, Math.max(60, past.length - 1, ...Object.values(runs).map((run) => run.length - 1))];
    const values = past.flatMap((one) => [one.mu, one.sigma]); // all of them are shown
    const reach = [Math.min(0, mus[0] / 3, mu0, ...values), Math.max(target, sigmas[1], ...values) + 0.3 * sigma0], middle = height - 104, floor = height - 34;
    const right = width - 88, x = linear(ends, [32, right]), y = linear(reach, [middle, 16]);
    const worst = Math.max(sigma0 ** 2, expected(begin), ...Object.values(runs).flat()) * 1.05, low = linear([0, worst], [floor, middle + 26]);
    const line = (kind, values, scale) => svg("path", { class: `line ${kind}`, d: path(values.map((value, i) => [x(i), scale(value)])) });
    const others = Object.entries(runs).filter(([name]) => name !== law.value);
    // The names of lines, beside where they end, and one below the other.
    const names = (lines) => lines.sort(([, a], [, b]) => a - b).reduce((placed, [text, at]) =>
      [...placed, [text, Math.max(at, (placed.at(-1)?.[1] ?? -Infinity) + 13)]], [])
      .map(([text, at]) => svg("text", { x: right + 5, y: at + 4 }, text));
    return [
      upright(y, 32, reach, "", 3), upright(low, 32, [0, worst], "", 2), axis(x, floor, ends, "", 4),
      svg("text", { x: (32 + right) / 2, y: height - 3, "text-anchor": "middle" }, "steps"),
      svg("line", { class: "mark", x1: 32, x2: right, y1: y(target), y2: y(target), "stroke-dasharray": "2 3" }),
      svg("text", { class: "halo", x: right, y: y(target) - 4, "text-anchor": "end" }, "best μ"),
      line("first", past.map((one) => one.mu), y), line("second", past.map((one) => one.sigma), y),
      others.map(([, run]) => line("earlier", run, low)), line("cost", past.map(expected), low),
      past.length > 1 ? names([["μ", y(at.mu)], ["σ", y(at.sigma)]]) : [],
      names([...others.map(([name, run]) => [rules[name], low(run.at(-1))]), ...(past.length > 1 ? [[rules[law.value], low(expected(at))]] : [])]),
      svg("text", { class: "halo", x: 36, y: middle + 20 }, "expected cost"),
    ];
  });

  function update() {
    const { z, slope, byMu, bySigma } = now(), more = digits + 2;
    [mu.value, sigma.value] = [at.mu, at.sigma];
    numbers.z.text = fixed(z, more);
    numbers.byMu.text = byMu === null ? "none" : fixed(byMu, 2);
    numbers.bySigma.text = bySigma === null ? "none" : fixed(bySigma, 2);
    numbers.cost.text = fixed(cost(z), more);
    numbers.slope.text = fixed(slope, more);
    numbers.expected.text = fixed(expected(at), more);
    [overview, ...routes, history].forEach((shown) => shown.repaint());
    const derivatives = byMu === null ? "no derivatives" : `∂z/∂μ = 1, ∂z/∂σ = ${fixed(bySigma, 2)}`;
    status.say(`After ${past.length - 1} steps μ = ${fixed(at.mu, digits)}, σ = ${fixed(at.sigma, digits)}, expected cost ${fixed(expected(at), digits)}; z = ${fixed(z, digits)}, ${derivatives}`);
  }
  start(mu0, sigma0);
  hidden = normal();
  update();

  return [
    asked.element,
    html("p", {}, "Move μ and σ by hand with ε frozen, and z slides along its paths, whose slopes are its derivatives. Unfreeze ε, and every move draws another one: z jumps, and no path is left. Each step of gradient descent draws another sample, takes the cost's slope there (the tangent) times the derivatives of z, and moves μ and σ downhill."),
    law.element, mu.element, sigma.element, eps.element,
    html("div", { class: "vae-play-buttons" },
      html("strong", {}, "By hand"), button(words.again, () => { redraw(); update(); }), html("label", {}, frozen, "freeze ε")),
    html("div", { class: "vae-play-buttons" },
      html("strong", {}, "Gradient descent"), learning.buttons, button(words.reset, reset)),
    overview.element,
    html("div", { class: "vae-play-paths" }, routes.map((shown) => shown.element), history.element),
    html("dl", {}, Object.values(numbers).map((number) => number.element)),
    status.element,
  ];
};
