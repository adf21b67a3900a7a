// How many latents are worth it: the exact linear VAE for any number of them, from the eigenvalues of the data.
"use strict";

// Noise variance, KL and log-likelihood per item of probabilistic PCA with k latents, by the eigenvalues, which fall.
vaePlay.ppca = (eigenvalues, k) => {
  const rest = eigenvalues.slice(k), t = rest.reduce((a, b) => a + b, 0) / rest.length, kept = eigenvalues.slice(0, k);
  const logs = kept.reduce((sum, l) => sum + Math.log(l), 0) + rest.length * Math.log(t);
  return {
    t, kl: kept.reduce((sum, l) => sum + Math.log(l / t) / 2, 0),
    log_likelihood: -0.5 * (eigenvalues.length * (Math.log(2 * Math.PI) + 1) + logs),
  };
};

vaePlay.kinds.spectrum = ({ eigenvalues, most }) => {
  const { svg, html, slider, choice, readout, announcer, predict, panel, linear, upright, clamp, fixed, brief, ppca } = vaePlay;
  const few = ppca(eigenvalues, 2), more = ppca(eigenvalues, 5);
  const cost = (of) => Math.log(eigenvalues[0] / of.t) / 2;
  const asked = predict("Give the model more latents. What does its first latent cost then?",
    ["less, for the others share the work", "the same", "more"], cost(more) > cost(few) ? 2 : 0,
    `The noise is what the latents leave over. It falls from ${brief(few.t)} with two latents to ${brief(more.t)} with five, and against less noise the first latent says more: ${brief(cost(few))} nats, then ${brief(cost(more))}.`);
  const k = slider("k", { min: 1, max: most, step: 1, value: 2 }, String, () => { if (k.value >= 5) asked.seen(); update(); });
  const scale = choice("Axis", { logarithmic: "logarithmic", linear: "linear" }, () => update());
  const numbers = { t: readout("noise variance t"), kl: readout("KL, nats"), log_likelihood: readout("log p(x), nats per item") };
  const status = announcer();

  const bars = panel({ class: "vae-play-settle", role: "img", "aria-label":
    "The eigenvalues as bars from the largest to smaller ones, on a logarithmic axis, with a line at the noise variance; the bars of directions that have a latent are filled." },
  (width, height) => {
    const shown = eigenvalues.slice(0, most + 8), { t } = ppca(eigenvalues, k.value), floor = height - 24;
    const log = scale.value === "logarithmic", height_of = log ? Math.log10 : (l) => l;
    const ends = log ? [Math.log10(shown.at(-1)) - 0.3, Math.log10(shown[0]) + 0.15] : [0, 1.1 * shown[0]], y = linear(ends, [floor, 20]);
    const x = linear([0, shown.length], [44, width - 8]), wide = Math.max(2, x(0.75) - x(0)), line = y(height_of(t));
    return [
      upright(y, 44, ends, log ? "log₁₀ l" : "l", 5),
      shown.map((l, i) => svg("rect", { class: `bar vae-play-${i < k.value ? 0 : 1}`, x: x(i) + 2, width: wide,
        y: y(height_of(l)), height: floor - y(height_of(l)) })),
      svg("line", { class: "axis", x1: 44, x2: width - 8, y1: floor, y2: floor }),
      svg("line", { class: "exact", x1: 44, x2: width - 8, y1: line, y2: line }),
      svg("text", { class: "halo", x: width - 10, y: line - 6, "text-anchor": "end" }, "noise variance t"),
      svg("text", { x: (44 + width) / 2, y: height - 6, "text-anchor": "middle" }, "directions of the data, longest first"),
      svg("text", { class: "halo", x: clamp(x(k.value), 60, width - 120), y: 14 }, `${k.value} with a latent (blue)`),
    ];
  });

  function update() {
    const found = ppca(eigenvalues, k.value);
    numbers.t.text = brief(found.t);
    numbers.kl.text = fixed(found.kl, 3);
    numbers.log_likelihood.text = fixed(found.log_likelihood, 3);
    bars.repaint();
    status.say(`${k.value} latents: noise variance ${brief(found.t)}, KL ${fixed(found.kl, 1)} nats, log p(x) ${fixed(found.log_likelihood, 1)} nats`);
  }
  update();

  return [
    asked.element,
    html("p", {}, "The optimum of the linear VAE for these data, whatever the number k of latents: the blue directions get one each, and the noise is the mean variance of all the others. A latent costs ½ ln(l/t) nats, the more the higher its bar reaches above the line."),
    k.element, scale.element, bars.element,
    html("dl", {}, Object.values(numbers).map((number) => number.element)),
    status.element,
  ];
};
