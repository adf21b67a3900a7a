// The trick: one sample z = μ + σ·ε, its path as μ and σ change, and its derivatives. And two that are no
// samples: z = μ, and z = μ + σ.
"use strict";

vaePlay.kinds.trick = ({ mu: mu0, sigma: sigma0, eps: eps0 }) => {
  const { html, svg, slider, button, choice, readout, announcer, panel, linear, axis, path, clamp, fixed, normal } = vaePlay;
  const rules = {
    trick: { text: "z = μ + σ · ε", eps: () => eps.value },
    none: { text: "no ε: z = μ", eps: () => 0 },
    ones: { text: "z = μ + σ", eps: () => 1 },
  };
  const digits = Math.max(0, -Math.floor(Math.log10(sigma0 / 30)));
  const step = 10 ** -digits;
  const grid = (value) => Math.round(value / step) * step;
  const span = [mu0 - 6 * sigma0, mu0 + 6 * sigma0]; // of the axis of z
  const mus = [grid(mu0 - 2 * sigma0), grid(mu0 + 2 * sigma0)];
  const sigmas = [Math.max(step, grid(sigma0 / 10)), grid(2 * sigma0)];
  let drawn = []; // the last values of ε, marked on both axes

  const moved = () => { if (!frozen.checked) redraw(); update(); };
  const redraw = () => { eps.value = normal(); drawn = [...drawn.slice(-39), eps.value]; };
  const range = ([min, max], value) => ({ min: min.toFixed(digits), max: max.toFixed(digits), step, value });
  const law = choice("Compute", Object.fromEntries(Object.entries(rules).map(([k, r]) => [k, r.text])), () => update());
  const mu = slider("μ", range(mus, mu0), (x) => fixed(x, digits), moved);
  const sigma = slider("σ", range(sigmas, sigma0), (x) => fixed(x, digits), moved);
  const eps = slider("ε", { min: -4, max: 4, step: 0.01, value: eps0 }, (x) => fixed(x, 2), () => update());
  const frozen = html("input", { type: "checkbox", checked: true });
  const numbers = { z: readout("z"), byMu: readout("∂z/∂μ"), bySigma: readout("∂z/∂σ") };
  const status = announcer();

  const now = () => {
    const noise = rules[law.value].eps();
    return { noise, z: mu.value + sigma.value * noise };
  };
  const bell = (at, width) => (x) => Math.exp(-0.5 * ((x - at) / width) ** 2) / width / Math.sqrt(2 * Math.PI);
  function density(x, y, [low, high], f) {
    const points = Array.from({ length: 301 }, (_, i) => low + (i / 300) * (high - low));
    return path(points.map((value) => [x(value), y(f(value))]));
  }
  // An arrow from (x, y) that is as long as the derivative says; a dot where that is zero.
  function arrow(x, y, derivative, name) {
    const end = x + 34 * derivative, tip = Math.sign(derivative) * 7;
    const head = derivative
      ? svg("path", { class: "arrow-head", d: `M${end + tip} ${y}l${-tip} -4v8z` })
      : svg("circle", { class: "arrow-head", cx: x, cy: y, r: 3 });
    return [
      svg("line", { class: "arrow", x1: x, x2: end, y1: y, y2: y }), head,
      svg("text", { class: "halo", x: 2, y: y + 4 }, `${name} = ${fixed(derivative, 2)}`),
    ];
  }

  const overview = panel({ class: "vae-play-overview", role: "img", "aria-label":
    "The density of z with the sample on its axis, arrows for its two derivatives, and below them the axis of ε." },
  (width, height) => {
    const { noise, z } = now(), used = law.value === "trick", edge = [14, width - 14];
    const x = linear(span, edge), e = linear([-4, 4], edge), ground = 118, base = height - 22;
    const y = linear([0, 0.6 / sigma0], [ground, 4]), low = linear([0, 0.4], [base, base - 34]);
    const place = clamp(x(z), 8, width - 8);
    return [
      svg("path", { class: "density", d: density(x, y, span, bell(mu.value, sigma.value)) }),
      drawn.map((value) => {
        const at = x(mu.value + sigma.value * (used ? value : noise));
        return svg("line", { class: "mark", x1: at, x2: at, y1: ground - 8, y2: ground });
      }),
      axis(x, ground, span, "z"),
      svg("path", { class: "density faint", d: density(e, low, [-4, 4], bell(0, 1)) }),
      drawn.map((value) => svg("line", { class: "mark", x1: e(value), x2: e(value), y1: base - 8, y2: base })),
      axis(e, base, [-4, 4], "ε"),
      used ? svg("line", { class: "link", x1: e(eps.value), y1: base, x2: place, y2: ground }) : [],
      arrow(place, ground + 34, 1, "∂z/∂μ"),
      arrow(place, ground + 54, noise, "∂z/∂σ"),
      svg("circle", { class: "random", cx: e(eps.value), cy: base, r: 6 }),
      svg("circle", { class: "sample", cx: place, cy: ground, r: 7 }),
    ];
  });

  // z against one parameter: the path, with the sample on it.
  const route = (name, control, ends, z) => panel({ class: "vae-play-route", role: "img", "aria-label":
    `The path of z as ${name} changes: a straight line, with the sample on it.` },
  (width, height) => {
    const x = linear(ends, [22, width - 22]), y = linear(span, [height - 24, 6]);
    return [
      axis(x, height - 24, ends, name, 4),
      svg("line", { class: "axis", x1: 22, x2: 22, y1: 6, y2: height - 24 }),
      svg("text", { x: 8, y: 16 }, "z"),
      svg("path", { class: "path", d: path(ends.map((value) => [x(value), y(z(value))])) }),
      svg("circle", { class: "sample", cx: x(control.value), cy: y(now().z), r: 6 }),
    ];
  });
  const routes = [
    route("μ", mu, mus, (value) => value + sigma.value * now().noise),
    route("σ", sigma, sigmas, (value) => mu.value + value * now().noise),
  ];

  function update() {
    const { noise, z } = now();
    numbers.z.text = fixed(z, digits + 2);
    numbers.byMu.text = fixed(1, 2);
    numbers.bySigma.text = fixed(noise, 2);
    [overview, ...routes].forEach((shown) => shown.repaint());
    status.say(`z = ${fixed(z, digits)}, ∂z/∂μ = 1, ∂z/∂σ = ${fixed(noise, 2)}`);
  }
  update();

  return [
    html("p", {}, "Move μ and σ with ε frozen: z slides along its paths, and their slopes are its derivatives. Unfreeze ε, and every move draws another one: z jumps, and no path is left to see. The marks on the axes are earlier draws."),
    law.element, mu.element, sigma.element, eps.element,
    html("div", { class: "vae-play-buttons" },
      button("Draw ε again", () => { redraw(); update(); }), html("label", {}, frozen, "freeze ε")),
    overview.element,
    html("div", { class: "vae-play-pair" }, routes.map((shown) => shown.element)),
    html("dl", {}, Object.values(numbers).map((number) => number.element)),
    status.element,
  ];
};
