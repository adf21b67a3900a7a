// The bound: a posterior of one latent on a grid, and a normal q to be moved. The reconstruction, the KL and the ELBO
// of q, log p(x), and the gap between the last two.
"use strict";

// The terms of N(mu, sigma²) on the grid, where it is normalised, so that the gap is never negative.
vaePlay.bound = ({ z, log_likelihood, log_prior, width }, mu, sigma) => {
  const weights = z.map((at, i) => Math.exp(-0.5 * ((at - mu) / sigma) ** 2) * width[i]), total = weights.reduce((a, b) => a + b, 0);
  let reconstruction = 0, kl = 0;
  weights.forEach((weight, i) => {
    const share = weight / total;
    if (!share) return;
    reconstruction += share * log_likelihood[i];
    kl += share * (Math.log(share / width[i]) - log_prior[i]);
  });
  return { reconstruction, kl, elbo: reconstruction - kl };
};

vaePlay.kinds.bound = (data) => {
  const { words, html, svg, slider, button, readout, announcer, predict, runner, panel, linear, axis, path, clamp, grip, fixed, brief,
    bell } = vaePlay;
  const { z, log_likelihood, log_prior, width: widths, log_evidence: evidence, mu: mu0, sigma: sigma0 } = data;
  const posterior = z.map((_, i) => Math.exp(log_likelihood[i] + log_prior[i] - evidence)), top = 1.6 * Math.max(...posterior);
  // The drawing ends where prior and posterior do; the grid goes on, for the tails of q, which may be as wide as it allows.
  const seen = z.filter((_, i) => Math.max(posterior[i], Math.exp(log_prior[i])) > 5e-4), ends = [seen[0], seen.at(-1)];
  const finest = Math.max(0.05, 2 * Math.max(...widths)), widest = (z.at(-1) - z[0]) / 8;
  const terms = (m, s) => vaePlay.bound(data, m, s);

  // The least gap, by a search on a grid of μ and log σ, and then on finer ones around the best q so far: the answer to the question.
  const logs = [finest, widest].map(Math.log);
  const around = (middle, share, [low, high], count) => Array.from({ length: count }, (_, i) =>
    clamp(middle + share * (high - low) * (i / (count - 1) - 0.5), low, high));
  let peak = { m: (ends[0] + ends[1]) / 2, s: (logs[0] + logs[1]) / 2, elbo: -Infinity };
  for (const share of [1, 0.1, 0.01]) {
    const { m: middle, s: width } = peak;
    for (const m of around(middle, share, ends, 41)) for (const s of around(width, share, logs, 21)) {
      const { elbo } = terms(m, Math.exp(s));
      if (elbo > peak.elbo) peak = { m, s, elbo };
    }
  }
  const best = evidence - peak.elbo;
  const asked = predict("Make the ELBO as high as you can by moving μ and σ of q. Will it reach log p(x)?",
    ["it will, with the right μ and σ", "a gap will be left"], best > 0.02 ? 1 : 0,
    `The gap is the KL from q to the posterior, and zero only where they are the same. The best normal q leaves ${fixed(best, 3)} nats.`);

  const limits = ([min, max], value) => ({ min, max, step: 0.01, value });
  const mu = slider("μ", limits(ends.map((x) => x.toFixed(2)), mu0), (x) => fixed(x, 2), () => { climbing.stop(); update(); });
  const sigma = slider("σ", limits([finest, widest].map((x) => x.toFixed(2)), sigma0), (x) => fixed(x, 2), () => { climbing.stop(); update(); });
  let at; // μ and σ, more exact than the sliders show them
  const labels = { reconstruction: "reconstruction", kl: "KL", elbo: "ELBO", evidence: "log p(x)", gap: "gap" };
  const numbers = Object.fromEntries(Object.entries(labels).map(([name, label]) => [name, readout(label)]));
  const status = announcer();

  // Uphill on the ELBO, by differences; at most 0.1 at a time.
  function slopes() {
    const h = 1e-3, [m, s] = at, rise = (a, b) => (terms(...a).elbo - terms(...b).elbo) / (2 * h);
    return [rise([m + h, s], [m - h, s]), rise([m, s * Math.exp(h)], [m, s * Math.exp(-h)])];
  }
  function climb(count) {
    let steep = 1;
    for (let i = 0; i < count && steep > 2e-3; i++) {
      const [byMu, byLogSigma] = slopes();
      steep = Math.hypot(byMu, byLogSigma);
      at = [clamp(at[0] + clamp(0.05 * byMu, -0.1, 0.1), ...ends), clamp(at[1] * Math.exp(clamp(0.05 * byLogSigma, -0.1, 0.1)), finest, widest)];
    }
    [mu.value, sigma.value] = at;
    if (steep <= 2e-3) asked.seen();
    show();
    return steep > 2e-3;
  }
  const climbing = runner(climb, { name: "One step uphill" });
  function reset() {
    climbing.stop();
    [mu.value, sigma.value] = [mu0, sigma0];
    update();
  }

  // Densities, and handles on q: its peak moves μ, its side σ.
  let back; // pixels -> z
  const hold = { mu: grip((x) => move(mu, back(x))), sigma: grip((x) => move(sigma, Math.abs(back(x) - mu.value))) };
  function move(control, value) {
    climbing.stop();
    control.value = value;
    update();
  }
  const densities = panel({ class: "vae-play-densities", role: "img", "aria-label":
    "Over z: the prior, the posterior, and q, the normal density with the chosen μ and σ." },
  (width, height) => {
    const edge = [12, width - 12], floor = height - 24, x = linear(ends, edge), y = linear([0, top], [floor, 12]);
    back = linear(edge, ends);
    const q = bell(...at), line = (values) => path(z.map((value, i) => [x(value), Math.max(-20, y(values(value, i)))]));
    const places = { mu: at[0], sigma: at[0] + at[1] };
    const dots = Object.entries(places).map(([name, place]) => {
      const spot = [clamp(x(place), ...edge), Math.max(14, y(q(place)))];
      hold[name].move(...spot);
      return [
        svg("circle", { class: "sample", cx: spot[0], cy: spot[1], r: 8 }),
        svg("text", { class: "halo", x: spot[0] + 12, y: spot[1] - 4 }, name === "mu" ? "μ" : "μ + σ"),
      ];
    });
    const entry = (i, kind, text) => [
      svg("line", { class: `${kind} key`, x1: 14, x2: 40, y1: 14 + 18 * i, y2: 14 + 18 * i }),
      svg("text", { class: "halo", x: 46, y: 18 + 18 * i }, text),
    ];
    return [
      svg("path", { class: "density", d: line((_, i) => posterior[i]) }),
      svg("path", { class: "density faint", d: line((_, i) => Math.exp(log_prior[i])) }),
      svg("path", { class: "line second solid", d: line(q) }),
      axis(x, floor, ends, "z", width < 400 ? 4 : 8), dots,
      entry(0, "density", "posterior p(z|x)"), entry(1, "density faint", "prior p(z)"), entry(2, "line second solid", "q(z|x)"),
    ];
  });

  // One bar starts where the other ends: reconstruction, minus KL, is the ELBO; with the gap it is log p(x).
  const bars = panel({ class: "vae-play-bars", role: "img", "aria-label":
    "Bars on an axis of nats: the reconstruction, less the KL, gives the ELBO; what is missing to log p(x) is the gap." },
  (width, height) => {
    const { reconstruction, elbo } = terms(...at), reach = [evidence - 6, Math.max(0, ...log_likelihood)];
    const x = linear(reach, [104, width - 12]), inside = (value) => clamp(x(value), 104, width - 12), floor = height - 24;
    const row = (i, text, kind, from, to) => {
      const [left, right] = [inside(from), inside(to)].sort((a, b) => a - b);
      return [
        svg("text", { x: 2, y: 21 + 28 * i }, text),
        svg("rect", { class: `bar ${kind}`, x: left, width: right - left, y: 8 + 28 * i, height: 18 }),
        Math.min(from, to) < reach[0] ? svg("text", { class: "halo", x: 106, y: 21 + 28 * i }, "◂") : [],
      ];
    };
    return [
      row(0, "reconstruction", "vae-play-0", 0, reconstruction), row(1, "− KL", "vae-play-1", reconstruction, elbo),
      row(2, "= ELBO", "vae-play-2", 0, elbo), row(3, "gap", "vae-play-3", elbo, evidence),
      svg("line", { class: "exact", x1: x(evidence), x2: x(evidence), y1: 0, y2: floor }),
      svg("text", { class: "halo", x: x(evidence) + 4, y: floor - 5 }, "log p(x)"),
      axis(x, floor, reach, "", width < 400 ? 4 : 8),
    ];
  });

  function update() {
    at = [mu.value, sigma.value];
    if (evidence - terms(...at).elbo < best + 0.1) asked.seen();
    show();
  }
  function show() {
    const found = terms(...at);
    const values = { ...found, evidence, gap: evidence - found.elbo };
    for (const [name, number] of Object.entries(numbers)) number.text = fixed(values[name], 3);
    [densities, bars].forEach((drawing) => drawing.repaint());
    status.say(`Reconstruction ${fixed(values.reconstruction, 2)}, KL ${fixed(values.kl, 2)}, ELBO ${fixed(values.elbo, 2)}, log p(x) ${fixed(evidence, 2)}, gap ${fixed(values.gap, 2)}`);
  }
  update();

  return [
    asked.element,
    html("p", {}, "Move q, by its handles or by the sliders, or let it climb. All values are in nats."),
    mu.element, sigma.element,
    html("div", { class: "vae-play-buttons" }, climbing.buttons, button(words.reset, reset)),
    html("div", { class: "vae-play-over" }, densities.element, hold.mu.element, hold.sigma.element),
    bars.element,
    html("dl", {}, Object.values(numbers).map((number) => number.element)),
    status.element,
  ];
};
